"""Does a task with the client that openapi-python-client generates into the package `fluxhook_client`."""
# mypy: ignore-errors

import json
import os
import sys

from fluxhook_client import AuthenticatedClient
from fluxhook_client.api.tasks import (
    get_image_v1_tasks_task_id_image_get as get_image,
)
from fluxhook_client.api.tasks import (
    get_task_v1_tasks_task_id_get as get_task,
)
from fluxhook_client.api.tasks import (
    post_task_v1_tasks_post as post_task,
)
from fluxhook_client.models import Flux2ProTask, TaskView

client = AuthenticatedClient(os.environ["BASE_URL"], os.environ["API_KEY"], timeout=60)
task = post_task.sync(client=client, body=Flux2ProTask.from_dict({"model": "flux-2-pro", "prompt": "a red fox"}))
assert isinstance(task, TaskView), task
while task.status not in {"stored", "failed"}:
    task = get_task.sync(task.id, client=client, prefer="wait=30")
    assert isinstance(task, TaskView), task
image = get_image.sync_detailed(task.id, client=client)
unknown = get_task.sync("task_0", client=client)
sys.stdout.write(json.dumps({"status": task.status, "bytes": len(image.content) > 0, "code": unknown.code}))
