"""The scenarios of the crash matrix: the request, and the behaviour of the provider and of the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.twin import Faults

PICTURE_HOST = "93.184.216.34"  # a public address, which the SSRF guard allows


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    ends: str  # the outcome without a crash
    asked: Mapping[str, Any] = field(default_factory=lambda: {"prompt": "a red fox"})
    faults: Faults = field(default_factory=Faults)
    callback_requested: bool = True
    loses_commit_answer_of: str | None = None  # the step whose first commit gets no answer


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
    "moderated": Scenario("moderated result", "failed: content_moderated", asked={"prompt": "unsafe result"}),
}
