"""Who calls: the tenant whose documents the request's API key opens."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ingest.apikeys import owner_of
from ingest.model import DEFAULT_TENANT
from serve.refusals import Unauthorized
from serve.service import ServiceOf

bearer = HTTPBearer(auto_error=False, description="An API key, where the service has any (`FANFOLD_API_KEYS`).")


async def tenant_of(
    service: ServiceOf, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> str:
    """Whose documents the caller may see; where the service has no keys, there is one tenant.

    Raises `Unauthorized`.
    """
    api_keys = service.settings.api_keys
    if not api_keys:
        return DEFAULT_TENANT
    if credentials is None:
        raise Unauthorized("This service asks for an API key. Send it as: Authorization: Bearer KEY")
    tenant = owner_of(credentials.credentials, api_keys)
    if tenant is None:
        raise Unauthorized("This API key is not known here.")
    return tenant


Tenant = Annotated[str, Depends(tenant_of)]
