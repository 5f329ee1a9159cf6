"""The settings that both programs share: one parser, one line for whatever is wrong, and never the password in it."""

import ssl
from pathlib import Path

import pytest
from pydantic import Field

from wire_contract.link.mqtt_settings import Tls
from wire_contract.link.protocol import Will
from wire_contract.program.command_settings import CommandSettings, UsageError, read_settings
from wire_contract.settings import ConnectionSettings, Names

NEEDED = ("--task", "har", "--broker", "mqtt://localhost")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TASK", "BROKER", "USERNAME", "PASSWORD", "ROOT"):
        monkeypatch.delenv(f"FEDKD_{name}", raising=False)


def read(*arguments: str) -> ConnectionSettings:
    return read_settings(ConnectionSettings, arguments, program="program")


def test_all_settings_reach_the_link() -> None:
    will = Will("a/b", b"gone")
    settings = read(*NEEDED, "--username", "u", "--password", "p", "--mqtt", "3.1.1", "--keepalive-seconds", "30")
    link = settings.mqtt_settings(client_id="c", subscriptions=("a/+",), will=will, session_expiry_seconds=0)
    assert (link.host, link.port, link.client_id, link.username, link.password) == ("localhost", 1883, "c", "u", "p")
    assert (link.protocol, link.keepalive_seconds, link.session_expiry_seconds) == ("3.1.1", 30, 0)
    assert (link.subscriptions, link.will, link.tls) == (("a/+",), will, None)


def test_defaults() -> None:
    link = read(*NEEDED).mqtt_settings(client_id="c")
    assert (link.protocol, link.username, link.password) == ("auto", None, None)
    assert link.session_expiry_seconds > 0


def test_the_url_says_who_unless_a_setting_does() -> None:
    url = ("--task", "har", "--broker", "mqtts://anna:secret@example.org")
    link = read(*url).mqtt_settings(client_id="c")
    assert (link.username, link.password, link.port, link.tls) == ("anna", "secret", 8883, Tls())
    link = read(*url, "--username", "berta", "--password", "other").mqtt_settings(client_id="c")
    assert (link.username, link.password) == ("berta", "other")
    assert read(*url, "--client-id", "own").mqtt_settings(client_id="c").client_id == "own"


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDKD_BROKER", "mqtt://from-environment")
    monkeypatch.setenv("FEDKD_TASK", "physiotherapy")
    assert read().broker == "mqtt://from-environment"
    assert read("--task", "har").task == "har"


@pytest.mark.parametrize("value", ["a,b", '["a", "b"]'])
def test_several_values_in_a_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    class Several(CommandSettings):
        """Takes names."""

        evaluator: list[str] = Field([], description="a name")
        host: Names = Field((), description="a name")

    monkeypatch.setenv("FEDKD_EVALUATOR", value)
    monkeypatch.setenv("fedkd_host", value)
    read = read_settings(Several, [], program="p")
    assert (read.evaluator, read.host) == (["a", "b"], ("a", "b"))


def test_the_password_file_holds_one_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n", encoding="utf-8")
    settings = read(*NEEDED, "--username", "u", "--password-file", str(file))
    assert settings.mqtt_settings(client_id="c").password == "s3cret"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--broker", "mqtt://localhost"), r"--task is missing \(or set FEDKD_TASK\)"),
        (("--task", "har"), "--broker is missing"),
        (("--task", "a b", "--broker", "mqtt://localhost"), "--task: task 'a b'"),
        (("--task", "har", "--broker", "http://u:hidden@localhost"), "--broker: broker URL"),
        (("--task", "har", "--broker", "mqtt://u:hid/den@localhost"), "--broker: broker URL"),
        ((*NEEDED, "--mqtt", "3"), "--mqtt: Input should be 'auto', '5' or '3.1.1'"),
        ((*NEEDED, "--keepalive-seconds", "0"), "--keepalive-seconds"),
        ((*NEEDED, "--root", "a/b/c/d/e"), "--root: topic root"),
        ((*NEEDED, "--nonsense", "1"), "--nonsense"),
    ],
)
def test_wrong_settings_are_one_line(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--password", "hidden"), "password without a user name"),
        (("--username", "u", "--password", "hidden", "--password-file", "f"), "either a password or a password file"),
        (("--username", "u", "--password-file", "missing"), "password file missing: No such file"),
        (("--username", "u", "--password-file", "/dev/null"), "its first line is empty"),
        (("--tls-ca", "missing.pem"), r"missing\.pem: there is no such file"),
        (("--tls-key", __file__), "needs its certificate"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read(*NEEDED, *arguments).mqtt_settings(client_id="c")
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_tls_files_are_used_and_refused_for_a_plain_broker() -> None:
    authorities = ssl.get_default_verify_paths().cafile
    if authorities is None:
        pytest.skip("this system has no file of authorities")
    encrypted = ("--task", "har", "--broker", "mqtts://localhost", "--tls-ca", authorities)
    assert read(*encrypted).mqtt_settings(client_id="c").tls == Tls(ca_file=Path(authorities))
    with pytest.raises(UsageError, match="is not encrypted; use mqtts"):
        read(*NEEDED, "--tls-ca", authorities).mqtt_settings(client_id="c")


def test_help_tells_defaults_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "seconds (default: 25; FEDKD_KEEPALIVE_SECONDS)" in shown
    assert "(default: fedkd/v1; FEDKD_ROOT)" in shown
    assert "usage: program" in shown
