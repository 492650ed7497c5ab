"""Response models of the API in OpenAI's form."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class Image(BaseModel):
    """One image: its bytes or a link, as `response_format` says."""

    b64_json: Annotated[str | None, Field(description="The image in base64.")] = None
    url: Annotated[str | None, Field(description="A link that needs no API key and expires after LINK_DAYS.")] = None


class ImagesResponse(BaseModel):
    created: Annotated[int, Field(description="When the last image was stored, in seconds since the epoch.")]
    output_format: Annotated[str | None, Field(description="`png`, `jpeg` or `webp`.")] = None
    size: Annotated[str | None, Field(description="The actual size of the first image, such as `1024x1024`.")] = None
    data: list[Image]


class ModelObject(BaseModel):
    """A model, or an alias of one."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="Always 0: the catalog does not say.")] = 0
    owned_by: Annotated[str, Field(description="For an alias, the id of its model.")]


class ModelObjects(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]
