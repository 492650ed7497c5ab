"""The models that this installation serves, from its catalog."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.catalog import Model
from app.errors import NotFound
from app.web.auth import CallerDep, ResourcesDep
from app.web.problems import responses

router = APIRouter(prefix="/v1/models", tags=["models"])


class ModelImages(BaseModel):
    """The input images of a model."""

    style: Annotated[
        Literal["numbered", "list", "named", "none"],
        Field(description="`numbered`: filled without a gap. `list`: one member with an array. `named`: by meaning."),
    ]
    members: list[str]
    max: int
    max_bytes: Annotated[int, Field(description="Of each image.")]
    max_pixels: Annotated[int, Field(description="Of each image.")]


class ModelView(BaseModel):
    """A model, and the JSON Schema of its request. Times are in seconds."""

    id: str
    kind: Literal["image", "video"]
    served: Annotated[bool, Field(description="False for video models, which are listed and refused.")]
    status: Literal["current", "preview", "legacy"]
    note: str
    watched_by: Annotated[
        Literal["callback", "poll"],
        Field(description="`poll` for models that accept no webhook, and without FLUXHOOK_PUBLIC_URL."),
    ]
    strict: Annotated[bool, Field(description="Whether the provider refuses members that are not in `request`.")]
    link_life_s: float
    usual_s: float
    longest_s: float
    images: ModelImages
    output_format: Annotated[str | None, Field(description="The format of a result if the request names none.")]
    credits: Annotated[float | None, Field(description="An estimate of the price; a task states its actual cost.")]
    price: str | None
    request: Annotated[dict[str, Any], Field(description="JSON Schema 2020-12, without the options of Fluxhook.")]


class ModelList(BaseModel):
    models: list[ModelView]


@router.get("", responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE))
async def list_models(use: ResourcesDep, _caller: CallerDep) -> ModelList:
    """List the models of the catalog, with what each accepts."""
    return ModelList(models=[_view(model, callbacks=use.public_url is not None) for model in use.catalog])


@router.get(
    "/{model_id:path}",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_model(model_id: str, use: ResourcesDep, _caller: CallerDep) -> ModelView:
    """Get one model of the catalog."""
    model = use.catalog.get(model_id)
    if model is None:
        raise NotFound("there is no such model in the catalog")
    return _view(model, callbacks=use.public_url is not None)


def _view(model: Model, *, callbacks: bool) -> ModelView:
    images = model.images
    return ModelView(
        id=model.id,
        kind=model.kind,
        served=model.kind == "image",
        status=model.status,
        note=model.note,
        watched_by="callback" if model.webhook and callbacks else "poll",
        strict=model.strict,
        link_life_s=model.link_life_s,
        usual_s=model.usual_s,
        longest_s=model.longest_s,
        images=ModelImages(
            style=images.style,
            members=list(images.members),
            max=images.max,
            max_bytes=images.max_bytes,
            max_pixels=images.max_pixels,
        ),
        output_format=model.output_format,
        credits=model.credits,
        price=model.price,
        request=dict(model.request),
    )
