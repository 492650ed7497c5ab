FROM python:3.13-slim AS build
WORKDIR /srv
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -y -q --no-install-recommends binutils
COPY requirements.lock /tmp/
# The shipped environment has no pip: pip runs from outside.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install \
      --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r /tmp/requirements.lock
# Debug information is a third of the size of the wheels.
RUN find /opt/venv/lib -name '*.so' -exec strip --strip-debug {} +
RUN printf '%s\n' '#!/opt/venv/bin/python' 'import sys' 'from app.cli import main' 'sys.exit(main())' \
      > /opt/venv/bin/fluxhook \
 && chmod 755 /opt/venv/bin/fluxhook
COPY app app
COPY migrations migrations
COPY LICENSE ./
# The root file system is read-only at run time, so the modules that commands import are compiled here, and no others.
RUN python -m compileall -q app migrations \
 && /opt/venv/bin/python -c 'from app.cli import commands; commands(); import app.db.engine.postgres, app.jobs.postgres'


FROM python:3.13-slim
LABEL org.opencontainers.image.title="Fluxhook" \
      org.opencontainers.image.description="A self-hosted job gateway for FLUX image tasks" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="MIT"

# A fixed number, so that a volume keeps its owner when the image is replaced.
RUN groupadd --gid 10001 fluxhook \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin fluxhook \
 && install -d -o fluxhook -g fluxhook -m 0700 /data

COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv /srv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/srv \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLUXHOOK_HOST=0.0.0.0 \
    FLUXHOOK_PORT=8080 \
    FLUXHOOK_DATA_DIR=/data

WORKDIR /data
VOLUME /data
EXPOSE 8080
USER 10001:10001

# A worker has no port: the check reads the age of its heartbeat file (`work --heartbeat /tmp/heartbeat`), which it
# touches every 5 s. http.client is used because urllib would use a proxy from the environment.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", "\
import http.client, os, pathlib, sys, time; \
heartbeat = pathlib.Path('/tmp/heartbeat'); \
heartbeat.exists() and sys.exit(time.time() - heartbeat.stat().st_mtime > 30); \
ask = http.client.HTTPConnection('127.0.0.1', int(os.environ['FLUXHOOK_PORT']), timeout=2); \
ask.request('GET', '/healthz'); \
sys.exit(ask.getresponse().status != 200)"]

ENTRYPOINT ["fluxhook"]
CMD ["serve"]
