"""From an order to a task: everything that is decided at the moment of acceptance. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.twin import pictures
from app.twin.callbacks import withheld
from app.twin.faults import Faults, fraction
from app.twin.inputs import Source
from app.twin.orders import Order, ratio_of
from app.twin.rules import Rules
from app.twin.task import Outcome, Task, foresee


@dataclass(frozen=True, slots=True)
class Caller:
    """Who submits: the account, the origin it came in on, and whether moderation refuses at the door."""

    account: str
    origin: str
    moderated_at_submit: bool = False


@dataclass(frozen=True, slots=True)
class Birth:
    """When and as what number a task is accepted. `seed` and `life` keep the ids of runs and resets apart."""

    at: datetime
    ordinal: int
    seed: int
    life: int


def cost_of(order: Order, model: str, rules: Rules) -> float:
    """Credits. A moderated request generates nothing and is free."""
    free = foresee(order.prompt).outcome is Outcome.REQUEST_MODERATED
    return 0 if free else rules.prices.get(model, 0)


def new_task(
    order: Order,
    model: str,
    caller: Caller,
    sources: Sequence[Source],
    *,
    birth: Birth,
    rules: Rules,
    faults: Faults,
) -> Task:
    struck = faults.of_task(birth.ordinal)
    ending = foresee(order.prompt)
    ready_at = None if ending.outcome is Outcome.NEVER else birth.at + _takes(order, struck, rules)
    task = Task(
        ordinal=birth.ordinal,
        id=_new_id(birth),
        account=caller.account,
        model=model,
        origin=caller.origin,
        prompt=order.prompt,
        seed=_new_seed(birth) if order.seed is None else order.seed,
        output_format=order.output_format or rules.default_format,
        size=_size(order, sources, rules),
        webhook_url=order.webhook_url,
        webhook_secret=order.webhook_secret,
        cost=cost_of(order, model, rules),
        ending=ending,
        faults=struck,
        accepted_at=birth.at,
        ready_at=ready_at,
        # `se` has whole seconds only.
        link_ends_at=ready_at and (ready_at + _link_life(struck, rules, faults)).replace(microsecond=0),
        sources=tuple(sources),
        input_digests=tuple(source.sha256 for source in sources),
        input_megapixels=round(sum(source.width * source.height for source in sources) / 1e6, 2),
    )
    task.callbacks_withheld = task.webhook_url is not None and withheld(task, rules)
    return task


def _takes(order: Order, struck: frozenset[str], rules: Rules) -> timedelta:
    early = "early_callback" in struck and order.webhook_url is not None
    return timedelta(0) if early else rules.ready_after


def _link_life(struck: frozenset[str], rules: Rules, faults: Faults) -> timedelta:
    return timedelta(seconds=faults.near_expiry_s) if "expired_link" in struck else rules.link_life


def _size(order: Order, sources: Sequence[Source], rules: Rules) -> pictures.Size:
    """An edit keeps the ratio of its first input, a picture from nothing is square."""
    if order.aspect_ratio is not None:
        ratio = ratio_of(order.aspect_ratio)
    else:
        ratio = sources[0].width / sources[0].height if sources else 1.0
    return pictures.output_size(ratio, rules.megapixels)


def _new_id(birth: Birth) -> str:
    """In the shape of a UUID, as every real id is."""
    h = hashlib.sha256(f"id {birth.seed} {birth.life} {birth.ordinal}".encode()).hexdigest()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:32]}"


def _new_seed(birth: Birth) -> int:
    return int(fraction("seed", birth.seed, birth.ordinal) * 2**32)
