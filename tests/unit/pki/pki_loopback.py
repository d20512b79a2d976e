# SPDX-License-Identifier: Apache-2.0
"""The client's end of loopback."""

import contextlib
from datetime import timedelta

from pki_world import CURL

from agent.pki.ca_process import CaProcess
from agent.pki.ca_settings import CaSettings
from agent.pki.clock import WallClock
from agent.pki.issuance import CaIssuer


def settings(tmp_path, port, **changes):
    values = {
        "address": f"127.0.0.1:{port}",
        "trust_anchor": tmp_path / "ca" / "root-cert.pem",
        "token_file": tmp_path / "token",
        "timeout_seconds": 5.0,
    }
    return CaSettings(**(values | changes))


@contextlib.asynccontextmanager
async def client(tmp_path, port, **changes):
    async with CaProcess(settings(tmp_path, port, **changes)) as made:
        yield made


async def fetch(made, identity=CURL, lifetime=timedelta(hours=1)):
    return await CaIssuer(made, lifetime=lifetime, clock=WallClock()).fetch(identity)
