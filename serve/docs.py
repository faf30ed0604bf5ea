"""Interactive documentation at `/docs`: Swagger UI, from a public CDN, pinned by hash (Subresource Integrity)."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
SCRIPT_HASH = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
STYLE_HASH = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fanfold: the HTTP interface</title>
<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="{SWAGGER_UI}swagger-ui.css" integrity="{STYLE_HASH}" crossorigin="anonymous">
</head>
<body>
<div id="docs">
<noscript>This page needs JavaScript.</noscript>
<p>Loading Swagger UI. Without the internet, read <a href="/openapi.json">/openapi.json</a> instead.</p>
</div>
<script src="{SWAGGER_UI}swagger-ui-bundle.js" integrity="{SCRIPT_HASH}" crossorigin="anonymous" defer></script>
<script src="/page/docs.js" defer></script>
</body>
</html>
"""
router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs() -> HTMLResponse:
    """The documentation's page."""
    return HTMLResponse(PAGE)
