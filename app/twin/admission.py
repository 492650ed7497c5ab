"""Turns a submit request into a task: everything that is decided when it is accepted. No I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.twin import pictures
from app.twin.callbacks import withheld
from app.twin.faults import Faults, fraction
from app.twin.inputs import Source
from app.twin.models import SubmitRequest, known_models, ratio_of
from app.twin.rules import Rules
from app.twin.task import Outcome, Task, ending_of


@dataclass(frozen=True, slots=True)
class Caller:
    """The account and origin of a submit request, and whether a moderated prompt is refused at once."""

    account: str
    origin: str
    moderated_at_submit: bool = False


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The time and number of an acceptance. `seed` and `epoch` give each run and each reset different task IDs."""

    at: datetime
    ordinal: int
    seed: int
    epoch: int


def cost_of(request: SubmitRequest, model: str, rules: Rules) -> float:
    """Return the cost in credits. A moderated request generates nothing and is free."""
    if ending_of(request.text).outcome is Outcome.REQUEST_MODERATED:
        return 0
    facts = known_models().get(model)
    return rules.prices.get(model, facts.credits if facts else 0)


def new_task(
    request: SubmitRequest,
    model: str,
    caller: Caller,
    sources: Sequence[Source],
    *,
    acceptance: Acceptance,
    rules: Rules,
    faults: Faults,
) -> Task:
    task_faults = faults.of_task(acceptance.ordinal)
    ending = ending_of(request.text)
    ready_at = None if ending.outcome is Outcome.NEVER else acceptance.at + _duration(request, task_faults, rules)
    task = Task(
        ordinal=acceptance.ordinal,
        id=_new_id(acceptance),
        account=caller.account,
        model=model,
        origin=caller.origin,
        prompt=request.text,
        seed=_new_seed(acceptance) if request.value("seed") is None else request.value("seed"),
        output_format=request.value("output_format") or rules.default_format,
        size=_size(request, sources, rules),
        webhook_url=request.value("webhook_url"),
        webhook_secret=request.value("webhook_secret"),
        cost=cost_of(request, model, rules),
        settled_cost=rules.settled_cost,
        ending=ending,
        faults=task_faults,
        accepted_at=acceptance.at,
        ready_at=ready_at,
        # The parameter `se` of a link has whole seconds.
        link_ends_at=ready_at and (ready_at + _link_life(model, task_faults, rules, faults)).replace(microsecond=0),
        sources=tuple(sources),
        input_digests=tuple(source.sha256 for source in sources),
        input_megapixels=round(sum(source.width * source.height for source in sources) / 1e6, 2),
    )
    task.callbacks_withheld = task.webhook_url is not None and withheld(task, rules)
    return task


def _duration(request: SubmitRequest, task_faults: frozenset[str], rules: Rules) -> timedelta:
    early = "early_callback" in task_faults and request.has_webhook
    return timedelta(0) if early else rules.ready_after


def _link_life(model: str, task_faults: frozenset[str], rules: Rules, faults: Faults) -> timedelta:
    if "expired_link" in task_faults:
        return timedelta(seconds=faults.near_expiry_s)
    facts = known_models().get(model)
    # The rule is about models whose links live as long as those of Kontext.
    lives_longer = facts is not None and facts.link_life_s > known_models()["flux-kontext-pro"].link_life_s
    return timedelta(seconds=facts.link_life_s) if facts is not None and lives_longer else rules.link_life


def _size(request: SubmitRequest, sources: Sequence[Source], rules: Rules) -> pictures.Size:
    """Return the size that was asked for, at most in the area of the rules.

    By default, an edit keeps the aspect ratio of its first input, and a new image is square.
    """
    width, height, named = (request.value(name) for name in ("width", "height", "aspect_ratio"))
    if width and height:
        return pictures.output_size(width / height, min(rules.megapixels, width * height / 1024**2))
    if named is not None and named != "auto":
        return pictures.output_size(ratio_of(named), rules.megapixels)
    ratio = sources[0].width / sources[0].height if sources else 1.0
    return pictures.output_size(ratio, rules.megapixels)


def _new_id(acceptance: Acceptance) -> str:
    """Return an ID in the form of a UUID, like the real ones."""
    h = hashlib.sha256(f"id {acceptance.seed} {acceptance.epoch} {acceptance.ordinal}".encode()).hexdigest()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:32]}"


def _new_seed(acceptance: Acceptance) -> int:
    return int(fraction("seed", acceptance.seed, acceptance.ordinal) * 2**32)
