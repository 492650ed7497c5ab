"""The pages: HTML that the service renders, for people. They show what the API shows, by the same functions."""

from fastapi import APIRouter

from app.web.pages import (
    account_page,
    application_forms,
    application_pages,
    callback_list,
    delivery_pages,
    key_forms,
    new_task,
    operations,
    overview,
    session,
    task_forms,
    task_list,
    task_page,
    thumbnails,
)

_MODULES = (
    session,
    overview,
    new_task,
    task_list,
    thumbnails,
    task_page,
    task_forms,
    account_page,
    application_forms,
    application_pages,
    key_forms,
    callback_list,
    delivery_pages,
    operations,
)
router = APIRouter()
for _module in _MODULES:
    router.routes.extend(_module.router.routes)
