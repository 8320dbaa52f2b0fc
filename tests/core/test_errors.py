from habari.core import errors


def test_each_public_error_has_its_own_status_and_code() -> None:
    kinds = errors.PublicError.__subclasses__()
    assert {(kind.status, kind.code) for kind in kinds} == {
        (400, "invalid_input"),
        (401, "not_authenticated"),
        (403, "not_permitted"),
        (404, "not_found"),
        (409, "conflict"),
        (503, "unavailable"),
    }


def test_a_temporary_error_says_when_to_try_again() -> None:
    assert errors.UnavailableError("The store sleeps.", delay_s=2).delay_s == 2
    assert str(errors.UnavailableError("The store sleeps.")) == "The store sleeps."


def test_what_an_operator_must_mend_is_not_shown_to_users() -> None:
    assert not issubclass(errors.ConfigError, errors.PublicError)
