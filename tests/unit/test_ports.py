"""Addresses of a server: read from config.properties, moved, and found free or taken."""

import os
import socket
from pathlib import Path

import pytest

from serving.host.ports import (
    OFFSET_VARIABLE,
    Address,
    PortError,
    Ports,
    Socket,
    free_offset,
    is_free,
    offset_of_environment,
)

CONFIG = (Path(__file__).parents[2] / "config.properties").read_text()


def test_our_config_listens_on_the_loopback_only_and_keeps_tokens() -> None:
    ports = Ports.of_config(CONFIG)
    assert {address.host for address in ports.all()} == {"127.0.0.1"}
    assert [address.port for address in ports.all()] == [8080, 8081, 8082, 7070, 7071]
    assert "\ndisable_token_authorization=false\n" in CONFIG


def test_moved_ports_are_what_a_config_with_them_says() -> None:
    moved = Ports.of_config(CONFIG).moved(100)
    assert [address.port for address in moved.all()] == [8180, 8181, 8182, 7170, 7171]
    assert Ports.of_config(CONFIG + moved.properties()) == moved


def test_moving_keeps_each_host_as_it_was() -> None:
    ports = Ports.of_config("inference_address=http://0.0.0.0:9000\n# metrics_address=http://0.0.0.0:1\n")
    assert ports.inference == Address("0.0.0.0", 9000) and ports.inference.url == "http://127.0.0.1:9000"
    moved = Ports.of_config(ports.moved(1).properties())
    assert moved.inference == Address("0.0.0.0", 9001)
    assert moved.management == Address("127.0.0.1", 8082) and moved.metrics == Address("127.0.0.1", 8083)


@pytest.mark.parametrize("offset", [-7070, 60_000])
def test_an_offset_that_leaves_the_range_is_refused(offset: int) -> None:
    with pytest.raises(PortError, match="outside 1 to 65535"):
        Ports.of_config(CONFIG).moved(offset)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(PortError, match="correct it"):
        Ports.of_config("inference_address=http://127.0.0.1:port\n")


def test_a_taken_port_is_named_with_who_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = Ports.of_config(f"inference_address=http://127.0.0.1:{port}\n")
        for now, free in (("0", 100), ("200", 300)):
            monkeypatch.setenv(OFFSET_VARIABLE, now)
            message = rf"port {port} is taken by .*{os.getpid()}.*{OFFSET_VARIABLE}={free} before"
            with pytest.raises(PortError, match=message) as caught:
                ports.check_free()
            assert "\n" not in str(caught.value)


def test_the_offset_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFFSET_VARIABLE, raising=False)
    assert offset_of_environment() == 0
    monkeypatch.setenv(OFFSET_VARIABLE, "20")
    assert offset_of_environment() == 20
    monkeypatch.setenv(OFFSET_VARIABLE, "x")
    with pytest.raises(PortError, match="whole number"):
        offset_of_environment()


def test_a_free_offset_passes_over_taken_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 200)
    base = Ports.of_config(CONFIG)
    first = free_offset(base, 30_000)
    with socket.create_server(("127.0.0.1", base.grpc_management.port + first)):
        second = free_offset(base, 30_000)
    assert second > first >= 30_000 and all(is_free(address) for address in base.moved(second).all())


def test_processes_begin_to_look_for_an_offset_at_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 203)
    assert free_offset(Ports.of_config(CONFIG), 30_000) >= 30_060


def test_management_opened_to_other_machines_stays_a_port() -> None:
    private = Ports.of_config(CONFIG)
    assert private.with_management_socket("/tmp/socket").management == Socket("/tmp/socket")
    opened = Ports.of_config("management_address=http://0.0.0.0:8081\n")
    assert opened.with_management_socket("/tmp/socket") == opened
