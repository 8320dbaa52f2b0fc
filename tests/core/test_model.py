from __future__ import annotations

import datetime

import pydantic
import pytest

from habari.core import errors, model


def test_a_secret_is_in_no_repr() -> None:
    key = model.AccessKey("AKIAEXAMPLE", "hush-hush")
    keys = model.Keys(access_key_id="AKIAEXAMPLE", secret_access_key="hush-hush")
    me = model.Me(user="ada", bucket="user-ada", endpoint_url="http://s3", region="us-east-1", keys=keys, buckets=[])
    for each in (key, keys, me):
        assert "AKIAEXAMPLE" in repr(each)
        assert "hush-hush" not in repr(each)
        assert "hush-hush" not in str(each)


@pytest.mark.parametrize("pattern", ["*", "a*b/", "a?", "home/${aws:username}/"])
def test_a_prefix_that_stores_take_for_a_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"take for a pattern; expected the literal beginning of keys"):
        model.Grant("lake", model.EVERYONE, model.Access.READ, prefix=pattern)


def test_a_prefix_may_have_every_other_character() -> None:
    assert model.Grant("lake", model.EVERYONE, model.Access.READ, prefix="a $ {x} [é]\\ %2A/").prefix


def test_an_end_without_a_time_zone_is_refused() -> None:
    naive = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
    with pytest.raises(errors.InvalidInputError, match=r"2026-01-01T00:00:00 .* has no time zone; expected one"):
        model.Grant("lake", model.EVERYONE, model.Access.READ, expires_at=naive)


def test_the_documents_refuse_fields_they_do_not_know() -> None:
    with pytest.raises(pydantic.ValidationError, match="admn"):
        model.EnsureRequest.model_validate({"issuer": "local", "subject": "1", "admn": True})


def test_an_ensure_request_names_a_person() -> None:
    for wrong in ({"issuer": "", "subject": "1"}, {"issuer": "local", "subject": ""}):
        with pytest.raises(pydantic.ValidationError, match="at least 1 character"):
            model.EnsureRequest.model_validate(wrong)


def test_every_error_has_one_shape() -> None:
    body = model.ErrorBody(error=model.ErrorBody.Detail(code="not_found", message="There is no bucket 'x'."))
    assert body.model_dump() == {"error": {"code": "not_found", "message": "There is no bucket 'x'."}}
