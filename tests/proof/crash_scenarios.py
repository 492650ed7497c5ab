"""The scenarios of the crash matrix: the request, and the behaviour of the provider and of the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from app.rules.retention import UNLIMITED, Retention
from app.twin import Faults

REMOVED = "removed"  # the task is gone, and its cost stays
USER = "customer-17"
PICTURE_HOST = "93.184.216.34"  # a public address, which the SSRF guard allows


class Later(StrEnum):
    """What happens after the end of the task, each once the one before is complete."""

    A_WEEK_PASSES = "a week passes"  # then its images, inputs and evidence are kept no longer
    A_MONTH_PASSES = "a month passes"  # then the task is kept no longer
    USER_IS_ERASED = "the user is erased"


_WEEK, _MONTH = timedelta(days=7), timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    ends: str  # the outcome without a crash
    asked: Mapping[str, Any] = field(default_factory=lambda: {"prompt": "a red fox"})
    faults: Faults = field(default_factory=Faults)
    callback_requested: bool = True
    loses_commit_answer_of: str | None = None  # the step whose first commit gets no answer
    budget: str | None = None  # of the application and of the service
    keys: tuple[str, ...] = ("a-key",)  # of the provider accounts, in order
    retention: Retention = UNLIMITED
    later: tuple[Later, ...] = ()  # what happens after the task's end


_EDIT = {"prompt": "in winter", "input_image": f"http://{PICTURE_HOST}/fox.png"}

SCENARIOS: Mapping[str, Scenario] = {
    "plain": Scenario("text to image with a callback", "stored"),
    "edit": Scenario("edit of an image given by URL", "stored", asked=_EDIT),
    "polled": Scenario("polling without callbacks", "stored", callback_requested=False),
    # With this seed the first submit gets a 429, and the next ones do not.
    "busy": Scenario("429, then accepted", "stored", faults=Faults(submit_429=0.5, seed=33)),
    "lost": Scenario("lost response to the submit request", "stored", faults=Faults(lose_answer_after=1)),
    "early": Scenario("callback before the response to the submit request", "stored", faults=Faults(early_callback=1)),
    "hinted": Scenario("unsigned callback", "stored", faults=Faults(unsigned_callback=1)),
    "refused": Scenario("result link refused once", "stored", faults=Faults(refused_link=1)),
    "unconfirmed": Scenario("no answer to the commit before the submit", "stored", loses_commit_answer_of="dispatch"),
    # Credits that stayed reserved would refuse the repeated request.
    "budget": Scenario("budget for one task", "stored", budget="4/day"),
    # The provider refuses the key of the first account.
    "handed over": Scenario("refused by one account, accepted by the next", "stored", keys=("bad", "a-key")),
    "kept no longer": Scenario(
        "retention of the images, then of the task",
        REMOVED,
        asked=_EDIT,
        retention=Retention(images=_WEEK, inputs=_WEEK, evidence=_WEEK, tasks=_MONTH),
        later=(Later.A_WEEK_PASSES, Later.A_MONTH_PASSES),
    ),
    "erased": Scenario(
        "erasure of the end user",
        REMOVED,
        asked={**_EDIT, "user": USER},
        later=(Later.USER_IS_ERASED,),
    ),
    "moderated": Scenario("moderated result", "failed: content_moderated", asked={"prompt": "unsafe result"}),
}
