"""A flaw that no test can measure, found in the source code instead."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# 7. A comparison of secrets whose duration depends on their common prefix. Too short to measure in a test.

COMPARING = ("app/security/verify.py", "app/security/keyring.py", "app/web/auth.py")
SECRETS = ("secret", "token", "signature", "digest", "sha256", "expected")


def no_secret_is_compared_plainly(source: str) -> None:
    plain = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(isinstance(operator, plain) for operator in node.ops):
            for operand in (node.left, *node.comparators):
                name = name_of(operand)
                harmless = name.endswith("_header") or not any(secret in name for secret in SECRETS)
                assert harmless, f"line {node.lineno}: {ast.unparse(node)}"


def name_of(node: ast.expr) -> str:
    """Return the name of a value, without the methods and indexes applied to it."""
    match node:
        case ast.Call(func=ast.Attribute(value=value)):
            return name_of(value)
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key.lower()
        case ast.Subscript(value=value):
            return name_of(value)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name.lower()
        case _:
            return ""


def flawed(source: str) -> Iterator[str]:
    """Yield the source once per constant-time comparison, with that one replaced by `==`."""
    for number in range(source.count("compare_digest(")):
        tree = ast.parse(source)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_constant_time(node)]
        call = calls[number]
        plain = ast.Compare(left=call.args[0], ops=[ast.Eq()], comparators=[call.args[1]])
        for parent in ast.walk(tree):
            for field, value in ast.iter_fields(parent):
                if value is call:
                    setattr(parent, field, plain)
                elif isinstance(value, list) and call in value:
                    value[value.index(call)] = plain
        yield ast.unparse(ast.fix_missing_locations(tree))


def is_constant_time(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "compare_digest"


@pytest.mark.parametrize("path", COMPARING)
def test_a_comparison_of_secrets_that_leaks_timing_is_caught(path: str) -> None:
    source = (Path(__file__).parents[2] / path).read_text()
    no_secret_is_compared_plainly(source)
    variants = list(flawed(source))

    assert variants
    for variant in variants:
        with pytest.raises(AssertionError, match="line"):
            no_secret_is_compared_plainly(variant)
