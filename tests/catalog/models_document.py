"""`docs/models.md`, from the catalog."""

# ruff: noqa: E501 - rows of tables

from collections.abc import Iterator
from pathlib import Path

from app.catalog import DEFAULT_MODEL, Catalog, Model
from app.cli.models import parameters

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"

_HEAD = """\
# Models

The models that Fluxhook serves, from its [catalog](../app/catalog/models.json). `fluxhook models` and `GET /v1/models`
show those of your installation, with the rows of your own file. This page is generated:
`make test ARGS='--regenerate tests/catalog'` rewrites it.

`POST /v1/tasks` takes the parameters of the model that `model` names (default: `{default}`) beside the options of
Fluxhook itself. The provider-compatible API takes them at the path of the model, at `/v1` and at `/flux/v1`.

- **watched by**: `callback` if the model accepts a webhook; otherwise, and without `FLUXHOOK_PUBLIC_URL`, the provider
  is polled: first after a second, then ever less often.
- **unknown parameters**: a model that refuses them gets none, and Fluxhook refuses them first. Others ignore them:
  Fluxhook passes them on and names them in `warnings`.
- **images**: the largest number, and the parameters that take them. In a multipart request they are files; a list is
  sent as repeated parts.
- **price**: an estimate in credits of 0.01 USD, as published; a task states its actual cost.
- **sure**: how well the row is documented. Nothing here was tried against the live API.

"""

_ADD = """
## Add or change a model

A file of your own adds rows, or replaces rows that ship; a release is not needed. Set `FLUXHOOK_MODELS_FILE` to its
path. It is read at the start, and an error names the row and the member. This is a complete row:

```toml
[[models]]
id = "flux-9"
images = {style = "numbered", members = ["input_image", "input_image_2"]}
[models.request]
required = ["prompt"]
[models.request.properties]
prompt = {type = "string"}
input_image = {type = "string"}
input_image_2 = {type = "string"}
width = {type = "integer", minimum = 64}
```

The file may also be JSON: `{"models": [{"id": ..., "request": ...}]}`. `request` is JSON Schema 2020-12.

| member | meaning | default |
| --- | --- | --- |
| `id` | the name that clients use | required |
| `request` | `properties` and `required` of the parameters, without `model` and the webhook | required |
| `path` | the path at the provider | `/v1/` and the id |
| `webhook` | whether the model accepts `webhook_url`; if not, it is polled | true |
| `strict` | whether the provider refuses unknown parameters | false |
| `images` | `style`: `numbered` (filled without a gap), `list` (one parameter with an array), `named` or `none`; `members`; `max`; `max_bytes`, `max_pixels` and `min_side` of each | none; 20 MB, 20 megapixels, 256 |
| `link_life_s` | the life of a link to a result that does not state its expiry | 600 |
| `usual_s`, `longest_s` | the usual and the longest time of a task | 10, 600 |
| `slots` | the maximum number of its tasks at the provider at once | the account's |
| `send_defaults` | parameters that are sent at their default if the client gives none | none |
| `without_images` | parameters that are sent with these values if the request has no image and does not give them | none |
| `max_output_pixels` | the most pixels of a result; the API in OpenAI's form refuses a `size` beyond it | none |
| `edit_tolerance` | the highest `safety_tolerance` with input images that gets no warning | none |
| `credits`, `price`, `status`, `note`, `sure`, `sources`, `kind` | shown in lists; a row with the `kind` `video` is listed and refused | |

`fluxhook doctor --models` sends an empty request for each model that requires a parameter to the configured provider.
A known path refuses it with 422, which is not charged.

With `FLUXHOOK_UNKNOWN_MODELS=pass`, the provider-compatible API passes on requests for models without a row: with a
webhook, with `input_image` to `input_image_8` as images, and with any other parameters.
"""


def text(catalog: Catalog) -> str:
    """Return the whole document."""
    models = list(catalog)
    images = [model for model in models if model.kind == "image"]
    videos = ", ".join(f"`{model.id}`" for model in models if model.kind != "image")
    parts = [_HEAD.format(default=DEFAULT_MODEL), *_table(images)]
    parts += [f"\nListed and refused, because Fluxhook serves images only: {videos}.\n"]
    for model in images:
        parts += _section(model)
    return "".join([*parts, _ADD])


def _table(models: list[Model]) -> Iterator[str]:
    yield "| model | status | watched by | unknown parameters | images | credits | link life | longest | sure |\n"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    for model in models:
        cells = (
            f"[`{model.id}`](#{_anchor(model)})",
            model.status,
            "callback" if model.webhook else "poll",
            "refused" if model.strict else "passed on",
            str(model.images.max),
            "" if model.credits is None else f"{model.credits:g}",
            f"{model.link_life_s:g} s",
            f"{model.longest_s:g} s",
            model.sure,
        )
        yield f"| {' | '.join(cells)} |\n"


def _section(model: Model) -> Iterator[str]:
    yield f"\n## {model.id}\n\n"
    if model.price:
        yield f"Price: {model.price}. "
    yield f"{model.note}\n\n".lstrip() if model.note else "\n\n" if model.price else ""
    yield "| parameter | value | default |\n| --- | --- | --- |\n"
    for name, values, default in parameters(model):
        star = " (required)" if name in model.required else ""
        yield f"| `{name}`{star} | {values} | {f'`{default}`' if default else ''} |\n"


def _anchor(model: Model) -> str:
    return "".join(character for character in model.id if character.isalnum() or character in "-_")
