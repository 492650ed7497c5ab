from app.db.engine.long_work import takes_long
from app.web.reports import report
from tests.world import World


async def test_statistics_are_read_as_long_work_which_short_units_do_not_wait_for(world: World) -> None:
    async with report(world.use):
        inside = takes_long()

    assert (inside, takes_long()) == (True, False)
