"""``python -m appliance``."""

from appliance.cli import run

run()
