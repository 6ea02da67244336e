# The training container of docs/gcp.md, on the server's image, whose packages and code it needs too:
#   docker build -f deploy/gcp/training.Dockerfile --build-arg SERVER=<the server's image> -t <this image> .
#
# LOCK: requirements.txt on a server's image with DEVICE=gpu, requirements-cpu.txt on one with DEVICE=cpu.
ARG SERVER=sightline
FROM ${SERVER}
ARG LOCK=requirements.txt
USER root
RUN --mount=type=bind,target=/build,source=. \
    set -eu; \
    python3 -m venv /opt/builder; \
    /opt/builder/bin/pip install --quiet --no-cache-dir --require-hashes -r /build/requirements-uv.txt; \
    /opt/builder/bin/uv pip install --no-progress --no-cache --python /opt/sightline/bin/python --require-hashes --no-deps \
        -r "/build/$LOCK" -r /build/requirements-gcp.txt; \
    rm -rf /opt/builder
COPY --chown=10001 training training
COPY --chown=10001 pipeline pipeline
USER 10001
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "pipeline.cloud_training"]
