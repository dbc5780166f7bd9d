"""docs: Authentication, Link."""

import pytest

from tests.sandbox.support import FRIDAY, MONDAY, Cobalt, Json

BODY = {"start_date": MONDAY, "end_date": FRIDAY}


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "access_token"])
def test_unauthorised_when_a_header_is_missing(cobalt: Cobalt, missing: str) -> None:
    headers = cobalt.headers("mesa")
    del headers[missing]

    answer = cobalt.http.post("/v1/appointments/fetch", json=BODY, headers=headers)

    assert answer.status_code == 401
    assert answer.json() == {"success": False, "message": f"Missing required headers: {missing}."}


@pytest.mark.parametrize("wrong", ["client_id", "client_secret", "access_token"])
@pytest.mark.parametrize("path", ["/v1/appointments/fetch", "/v1/settings"])
def test_unauthorised_when_a_header_is_wrong(cobalt: Cobalt, wrong: str, path: str) -> None:
    headers = {**cobalt.headers("mesa"), wrong: "no"}

    answer = cobalt.http.post(path, json=BODY, headers=headers)

    assert answer.status_code == 401
    assert answer.json()["success"] is False


def test_unauthorised_when_header_names_have_hyphens(cobalt: Cobalt) -> None:
    headers = {name.replace("_", "-"): value for name, value in cobalt.headers("mesa").items()}

    answer = cobalt.http.post("/v1/appointments/fetch", json=BODY, headers=headers)

    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/v1/webhook", "/v1/webhook-events"])
def test_no_token_is_needed_when_the_call_concerns_the_client(cobalt: Cobalt, path: str) -> None:
    answer = cobalt.http.get(path, headers=cobalt.client_headers)

    assert answer.status_code == 200
    assert cobalt.http.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/v1/settings", "/v1/appointments"])
def test_login_required_everywhere_when_the_link_is_broken(cobalt: Cobalt, path: str) -> None:
    answer = cobalt.read(path, "old-mill", start_date=MONDAY, end_date=FRIDAY)

    assert answer.status_code == 403
    assert answer.json()["error"] == "login_required"


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_new_clinic_works_when_its_link_is_completed(cobalt: Cobalt, prefix: str) -> None:
    asked = {
        "user_id": "u1",
        "org_id": "pine-street",
        "emr_name": "eClinicalWorks",
        "emr_instance_domain": "pine.example",
    }
    link_token = cobalt.send(f"{prefix}/link/token/create", asked).json()["token"]
    public = cobalt.steer(f"/links/{link_token}/complete").json()["public_token"]

    exchanged = cobalt.read(f"{prefix}/link/token/exchange", public_token=public)

    assert exchanged.status_code == 200
    assert list(exchanged.json()) == ["success", "token"]
    token = exchanged.json()["token"]
    headers = {**cobalt.client_headers, "access_token": token}
    fetched = cobalt.http.post("/v1/appointments/fetch", json=BODY, headers=headers)
    data = cobalt.payload(fetched.json()["job_execution_id"])["data"]
    assert data["appointment_count"] > 0
    assert cobalt.http.get("/v1/settings", headers=headers).status_code == 404


def test_public_token_is_refused_when_it_was_used(cobalt: Cobalt) -> None:
    public = _public_token(cobalt)
    assert cobalt.read("/v1/link/token/exchange", public_token=public).status_code == 200

    again = cobalt.read("/v1/link/token/exchange", public_token=public)

    assert again.status_code == 400
    assert again.json()["success"] is False


def test_public_token_is_refused_when_it_is_older_than_30_minutes(cobalt: Cobalt) -> None:
    public = _public_token(cobalt)
    cobalt.steer("/clock", {"advance_seconds": 30 * 60 + 1})

    answer = cobalt.read("/v1/link/token/exchange", public_token=public)

    assert answer.status_code == 400


def test_link_token_works_once_and_for_30_minutes_only(cobalt: Cobalt) -> None:
    tokens = [
        cobalt.send("/v1/link/token/create", {"user_id": "u", "org_id": "mesa"}).json()["token"]
        for _ in range(2)
    ]
    assert cobalt.steer(f"/links/{tokens[0]}/complete").status_code == 200
    cobalt.steer("/clock", {"advance_seconds": 30 * 60 + 1})

    answers = [cobalt.steer(f"/links/{token}/complete") for token in tokens]

    assert [answer.status_code for answer in answers] == [404, 404]


def test_broken_clinic_gets_a_new_token_when_it_links_again(cobalt: Cobalt) -> None:
    public = _public_token(cobalt, "old-mill")

    token = cobalt.read("/v1/link/token/exchange", public_token=public).json()["token"]

    headers = {**cobalt.client_headers, "access_token": token}
    assert token != cobalt.ready["access_tokens"]["old-mill"]
    assert cobalt.http.get("/v1/settings", headers=headers).status_code == 200
    assert cobalt.read("/v1/settings", "old-mill").status_code == 401


@pytest.mark.parametrize(
    "body", [{}, {"user_id": "u"}, {"user_id": "u", "org_id": "new"}, {"org_id": "mesa"}]
)
def test_link_is_refused_when_something_is_missing(cobalt: Cobalt, body: Json) -> None:
    answer = cobalt.send("/v1/link/token/create", body)

    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Missing required parameters: ")


def _public_token(cobalt: Cobalt, organisation: str = "mesa") -> str:
    asked = {"user_id": "u1", "org_id": organisation}
    link_token = cobalt.send("/v1/link/token/create", asked).json()["token"]
    return str(cobalt.steer(f"/links/{link_token}/complete").json()["public_token"])
