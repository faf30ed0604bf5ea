"""The ASGI application: the routes, the web page, and the guard before them."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.errors import ServerErrorMiddleware

from serve import docs, problems
from serve.guard import Guard
from serve.intake import Intake
from serve.routes import documents, health, images, jobs, searching
from serve.routes.health import VERSION
from serve.service import Service

PAGE = Path(__file__).parent / "page"
DESCRIPTION = """PDFs in, searchable text out, and the truth about it.

Errors are problem bodies (RFC 9457). Lists are read page by page: pass `next_cursor` as `cursor`. Where the service has
API keys, send one as `Authorization: Bearer KEY`."""


def create_app(service: Service) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(title="Fanfold", version=VERSION, description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.service = service
    problems.install(app)
    for module in (documents, images, jobs, searching, health, docs):
        app.include_router(module.router)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_api_route("/", _web_page, include_in_schema=False)
    app.add_middleware(Intake, settings=service.settings)
    app.add_middleware(ServerErrorMiddleware, handler=problems.unexpected_error)  # its answers pass the guard too
    app.add_middleware(Guard, settings=service.settings)
    return app


def _web_page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
