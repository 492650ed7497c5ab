from app.security.sign import bfl_signature


def test_the_signature_is_the_published_example_of_the_scheme() -> None:
    # GitHub's own test values for X-Hub-Signature-256 ("Validating webhook deliveries").
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

    assert bfl_signature("It's a Secret to Everybody", b"Hello, World!") == expected


def test_the_signature_covers_every_byte() -> None:
    assert bfl_signature("secret", b'{"a": 1}') != bfl_signature("secret", b'{"a":1}')
