"""What the service counts about itself, in the form that Prometheus reads. Labels never hold what a user sent."""

from prometheus_client import CollectorRegistry, Counter, generate_latest

REGISTRY = CollectorRegistry()

assets_lost = Counter(
    "fluxhook_assets_lost", "Images that were made and could not be fetched while their link lived.", registry=REGISTRY
)
tasks_repaired_by_poll = Counter(
    "fluxhook_tasks_repaired_by_poll",
    "Tasks whose result came by asking the provider, because the callback did not come or proved nothing.",
    registry=REGISTRY,
)
tasks_unscheduled = Counter(
    "fluxhook_tasks_unscheduled",
    "Tasks that were neither final nor scheduled when the sweeper found and mended them. Stays 0.",
    registry=REGISTRY,
)


def exposition() -> bytes:
    return generate_latest(REGISTRY)
