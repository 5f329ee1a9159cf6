"""How the programs of the demo reach the broker."""

from simulators.demo.connection import BrokerAccess


def test_wiring_hides_the_password_and_leads_over_the_line() -> None:
    access = BrokerAccess(
        broker="wss://broker.example:443/mqtt",
        root="fedkd/demo-1",
        protocol="auto",
        environment={"FEDKD_PASSWORD": "secret"},
        tls_flags=("--tls-ca", "ca.pem"),
    )
    near, far = access.flags("a", task="t", proxy_port=1234), access.flags("a", task="t")
    assert "ws://127.0.0.1:1234/mqtt" in near
    assert "--tls-ca" not in near
    assert far[-4:] == ["--broker", "wss://broker.example:443/mqtt", "--tls-ca", "ca.pem"]
    assert not any("secret" in argument for argument in near + far)
