"""Fanfold as an application that Ray Serve imports: `serve deploy`, and KubeRay's RayService.

`fanfold up` starts everything from a process that stays. Here Serve's controller calls `build`, in a task of its own on
any node, which ends when the application is returned; what has to go on is detached.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import serve

from cluster.composition import prepare, refuse_dead_stores, refuse_embedded_stores, refuse_truncation, resolve
from cluster.flags import start_flags
from cluster.service import connect_service, refuse_open_address
from cluster.supervisor import refuse_second_supervisor, start_supervisors
from ingest.errors import ConfigurationError
from ingest.settings import Settings
from ingest.telemetry import configure_logging
from serve.app import application


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Start the supervisors and the cancel flags, and return the application: `import_path: cluster.deployment:build`.

    The settings are the environment's, on the node that Serve chose. Importing this module does nothing. The call may
    be repeated, as Serve does when it fails and whenever the application changes: supervisors that an earlier call
    started are replaced, their jobs go back to the queue. Raises `ConfigurationError` for settings that cannot work,
    embedded stores among them; `StoreUnavailable` or `StoreRefused`, naming the setting, when a store does not answer;
    `Conflict` when a `fanfold up` runs on this Ray cluster.
    """
    if arguments:
        raise ConfigurationError(
            f"Fanfold takes no arguments, but the Serve config has {', '.join(sorted(arguments))}. Set FANFOLD_* "
            "variables on the Ray nodes."
        )
    settings = Settings()
    configure_logging(settings.log_level)
    refuse_embedded_stores(settings)
    refuse_open_address(settings)
    refuse_truncation(settings)
    refuse_dead_stores(settings)
    refuse_second_supervisor()
    blueprint = resolve(settings, mongodb_uri=None)
    prepare(blueprint)
    start_flags()
    start_supervisors(blueprint)
    return application(blueprint.settings, partial(connect_service, blueprint))
