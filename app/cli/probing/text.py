"""The report of a probe in words."""

from collections.abc import Iterator, Sequence

from app.cli.probing.report import Answer, CallbackSeen, Redirect, Report


def lines(report: Report) -> Iterator[str]:
    """Yield the report as lines of text."""
    price = "unknown" if report.price_credits is None else f"{report.price_credits:g} credits"
    yield f"Probe of {report.provider} at {report.host}, {report.at}, Fluxhook {report.version}"
    yield f"model {report.model}, price {price}, {'with' if report.public_address else 'without'} a callback address"
    if report.stopped is not None or not report.complete:
        yield f"NOT COMPLETE: {report.stopped or 'it was interrupted'}"
    yield ""
    yield "Submission"
    yield from _indented(["not sent"] if report.submit is None else _answer(report.submit))
    yield "Polls"
    yield from _indented(line for poll in report.polls for line in _answer(poll))
    yield "Callbacks"
    yield from _indented(_callbacks(report))
    yield "Link to the image"
    yield from _indented(_link(report))
    yield "After the expiry of the link"
    yield from _indented(_after_expiry(report))
    if report.spent_credits is not None:
        yield f"Spent by the balance: {report.spent_credits:g} credits"


def _indented(texts: Iterator[str] | Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield f"  {text}"


def _answer(answer: Answer) -> Iterator[str]:
    status = "no answer" if answer.status is None else f"HTTP {answer.status}"
    says = "" if answer.says is None else f", says {answer.says}"
    times = "" if answer.times == 1 else f", {answer.times} times in a row"
    problem = "" if answer.problem is None else f", {answer.problem}"
    cost = "" if answer.cost is None else f", cost {answer.cost:g}"
    yield f"after {answer.after_s:.2f} s: {status} in {answer.took_s:.2f} s{says}{cost}{problem}{times}"
    yield f"  members: {answer.members}"
    if answer.headers:
        yield f"  headers: {', '.join(answer.headers)}"
    yield from _redirects(answer.redirects)


def _callbacks(report: Report) -> Iterator[str]:
    if not report.callbacks:
        yield "none" if report.public_address else "not asked for: no --public-url"
    before: CallbackSeen | None = None
    for number, seen in enumerate(report.callbacks, 1):
        since = "" if before is None else f", {seen.after_s - before.after_s:.2f} s after the last one"
        yield f"{number}. after {seen.after_s:.2f} s{since}: {seen.method}, says {seen.says}, answered {seen.answered}"
        yield f"  verdict of Fluxhook: {seen.verdict}"
        yield f"  proof: {'; '.join(seen.proofs) or 'no header fits the secret'}"
        if seen.secret_in_body:
            yield "  the secret is in the body"
        yield f"  headers: {', '.join(seen.headers)}"
        yield f"  content type {seen.content_type}, user agent {seen.user_agent}"
        yield "  the same bytes as before" if seen.same_body_as_before else f"  members: {seen.members}"
        before = seen


def _link(report: Report) -> Iterator[str]:
    link = report.link
    if link is None:
        yield "none was seen"
        return
    life = "states no expiry" if link.lives_s is None else f"expires {link.lives_s:g} s after the poll that named it"
    yield f"{link.scheme} on {link.host}, {life}, query: {', '.join(link.query) or 'none'}"
    got = f"HTTP {link.status}, {link.bytes} bytes of {link.media_type}" if link.status is not None else link.problem
    yield f"without an API key: {got}"
    yield from _redirects(link.redirects)


def _after_expiry(report: Report) -> Iterator[str]:
    after = report.after_expiry
    if after is None:
        yield "not looked at"
        return
    yield f"after {after.waited_s:g} s the link gives {after.link_status or 'no answer'}"
    yield f"a poll names {'another link' if after.another_link else 'no other link'}:"
    yield from _answer(after.poll)


def _redirects(redirects: Sequence[Redirect]) -> Iterator[str]:
    for redirect in redirects:
        followed = "followed" if redirect.followed else "not followed: the API key may not go there"
        yield f"  redirected with {redirect.status} to {redirect.host}, {followed}"
