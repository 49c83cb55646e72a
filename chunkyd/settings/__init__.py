"""Settings: YAML and environment → frozen structs. Imports nobody but errors, and no plug-in.

units       sizes, durations, rates as people write them
timetable   the bandwidth of each time of the week
shapes      the structs everybody else sees
values      a value, and where it was written
document    the file, the environment over it; yaml_text: YAML with file and line of every value
reader      typed reading; unknown keys are errors
places      which file, which folders
daemon, server   the loaders; control: where the daemon is spoken to
render      back to YAML, for check-config; imported by its own name, since only that needs it

Each is loaded when it is asked for: chunkyctl takes a fifth of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chunkyd.settings.control import Control as Control
    from chunkyd.settings.control import load_control as load_control
    from chunkyd.settings.daemon import is_loopback as is_loopback
    from chunkyd.settings.daemon import load_daemon as load_daemon
    from chunkyd.settings.places import default_data_dir as default_data_dir
    from chunkyd.settings.places import default_socket as default_socket
    from chunkyd.settings.places import default_state_dir as default_state_dir
    from chunkyd.settings.places import find_config as find_config
    from chunkyd.settings.places import is_inside as is_inside
    from chunkyd.settings.server import load_server as load_server
    from chunkyd.settings.shapes import DaemonSettings as DaemonSettings
    from chunkyd.settings.shapes import Delete as Delete
    from chunkyd.settings.shapes import Folder as Folder
    from chunkyd.settings.shapes import Keep as Keep
    from chunkyd.settings.shapes import Limits as Limits
    from chunkyd.settings.shapes import Log as Log
    from chunkyd.settings.shapes import Move as Move
    from chunkyd.settings.shapes import Remote as Remote
    from chunkyd.settings.shapes import Retry as Retry
    from chunkyd.settings.shapes import ServerSettings as ServerSettings
    from chunkyd.settings.shapes import Tls as Tls
    from chunkyd.settings.shapes import Uploads as Uploads
    from chunkyd.settings.shapes import changed_needing_restart as changed_needing_restart
    from chunkyd.settings.timetable import PAUSE as PAUSE
    from chunkyd.settings.timetable import Pause as Pause
    from chunkyd.settings.timetable import Timetable as Timetable
    from chunkyd.settings.timetable import format_timetable as format_timetable
    from chunkyd.settings.timetable import parse_timetable as parse_timetable
    from chunkyd.settings.token import read_token as read_token
    from chunkyd.settings.units import format_duration as format_duration
    from chunkyd.settings.units import format_rate as format_rate
    from chunkyd.settings.units import format_size as format_size
    from chunkyd.settings.units import parse_duration as parse_duration
    from chunkyd.settings.units import parse_rate as parse_rate
    from chunkyd.settings.units import parse_size as parse_size

_HOMES = {
    "daemon": "is_loopback load_daemon",
    "control": "load_control Control",
    "places": "default_data_dir default_socket default_state_dir find_config is_inside",
    "server": "load_server",
    "shapes": (
        "DaemonSettings Delete Folder Keep Limits Log Move Remote Retry ServerSettings Tls Uploads "
        "changed_needing_restart"
    ),
    "timetable": "PAUSE Pause Timetable format_timetable parse_timetable",
    "token": "read_token",
    "units": "format_duration format_rate format_size parse_duration parse_rate parse_size",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names.split():
                return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
