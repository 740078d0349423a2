# The service in an image: `docker build -t knative-diffusion .`, or for CPUs with `--build-arg VARIANT=cpu`.
# The front, which has no PyTorch in it: `docker build --target front -t knative-diffusion-front .`
#
# VARIANT          cuda (PyTorch with CUDA, xformers) or cpu
# BASE             any image with Python 3.11 to 3.14 as `python`, with venv, and useradd
# TORCH_INDEX_URL  with VARIANT=cpu: where PyTorch without CUDA is; empty where PIP_ARGS offer it
# PIP_ARGS         more options for pip, for networks of their own: an index, a folder of wheels, a certificate
# MODEL            a checkpoint to put into the image, as for `python -m service fetch`; serve it with
#                  SD_MODEL=/models/checkpoints/NAME. None by default: weights belong on a volume.
# EXTRAS           extras of pyproject.toml to add, separated by spaces: batch (W&B), launch-agent, ray
# COMPILER         any value adds what SD_COMPILE=true needs at run time (torch.compile): Triton, 0.7 GB, and a C compiler
ARG BASE=python:3.11-slim
ARG VARIANT=cuda

# --- dependencies: a layer of their own, which only a change of the lock file or of pyproject.toml makes anew ------
FROM ${BASE} AS venv
WORKDIR /build
COPY pyproject.toml requirements.lock requirements-gpu.lock ./
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

FROM venv AS dependencies
ARG VARIANT
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_ARGS=""
ARG COMPILER=""
ARG EXTRAS=""
# The packages of the project, without the project: its sources change more often.
# hadolint ignore=SC2086
RUN set -eu; \
    case "$VARIANT" in \
      cuda) extra=gpu; lock=requirements-gpu.lock; index="" ;; \
      cpu) extra=""; lock=requirements.lock; index="${TORCH_INDEX_URL:+--extra-index-url $TORCH_INDEX_URL}" ;; \
      *) echo "VARIANT is '$VARIANT', neither cuda nor cpu" >&2; exit 2 ;; \
    esac; \
    python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['dependencies'], *(one for extra in sys.argv[1:] for one in p['optional-dependencies'][extra]), sep='\n')" \
      $extra $EXTRAS >requirements.txt; \
    pip install --no-cache-dir --no-compile $PIP_ARGS $index -c "$lock" -r requirements.txt
# Tests, tools, C++ headers and pip are not needed to run (torch looks for one of its tools when it is imported). Bytecode is made here, since nothing can be written at run time;
# "unchecked" bytecode does not depend on the times of files. Packages carry a few files for newer Pythons, which this
# one cannot compile and never imports: hence the look at the result instead of at the exit code.
RUN set -eu; \
    site=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
    find "$site" -type d -name tests -prune -exec rm -rf {} +; \
    rm -rf "$site/torch/test"; \
    find "$site/torch/bin" -type f ! -name torch_shm_manager -delete; \
    if [ -z "$COMPILER" ]; then pip uninstall -q -y triton; rm -rf "$site/torch/include" "$site/torch/share"; fi; \
    rm -rf "$site"/pip "$site"/pip-* /opt/venv/bin/pip*; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" >compileall.log || true; \
    for package in torch diffusers transformers; do ls "$site/$package/__pycache__"/__init__.*.pyc; done

# --- what a front needs of them: all but what has to do with a device ---------------------------------------------------
FROM venv AS front-dependencies
ARG PIP_ARGS=""
# hadolint ignore=SC2086
RUN set -eu; \
    python -c "import re, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      left_out = 'diffusers httpx2 huggingface-hub nvidia-ml-py safetensors scipy torch torchsde tqdm transformers'.split(); \
      print(*(d for d in p['dependencies'] + p['optional-dependencies']['front'] \
      if re.match('[a-z0-9-]+', d)[0] not in left_out), sep='\n')" >requirements.txt; \
    pip install --no-cache-dir --no-compile $PIP_ARGS -c requirements.lock -r requirements.txt; \
    site=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
    find "$site" -type d -name tests -prune -exec rm -rf {} +; \
    rm -rf "$site"/pip "$site"/pip-* "$site"/setuptools "$site"/setuptools-* /opt/venv/bin/pip*; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" >compileall.log || true; \
    ls "$site"/fastapi/__pycache__/__init__.*.pyc "$site"/redis/__pycache__/__init__.*.pyc

# --- dependencies of the page for people, apart (target ui): those of a front, and Gradio -------------------------------
FROM front-dependencies AS ui-dependencies
ARG PIP_ARGS=""
COPY requirements-dev.lock ./
# hadolint ignore=SC2086
RUN set -eu; \
    python -m venv /tmp/pip; \
    python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print(*p['optional-dependencies']['ui'], sep='\n')" >requirements.txt; \
    /tmp/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir $PIP_ARGS -c requirements-dev.lock -r requirements.txt

# --- the service itself ----------------------------------------------------------------------------------------------
FROM ${BASE} AS service
ARG PIP_ARGS=""
WORKDIR /build
COPY . .
# hadolint ignore=SC2086
RUN python -m venv /tmp/pip \
    && /tmp/pip/bin/pip install --no-cache-dir --no-compile --no-deps $PIP_ARGS --target /app . \
    && /tmp/pip/bin/python -m compileall -q --invalidation-mode unchecked-hash /app \
    && cp LICENSE /app/ \
    && cp -a /app /front && rm -rf /front/service/demo_model /front/service/engine

# --- weights, where somebody wants them in the image -------------------------------------------------------------------
FROM dependencies AS weights
ARG MODEL=""
COPY --from=service /app /app
RUN mkdir /models && if [ -n "$MODEL" ]; then PYTHONPATH=/app SD_MODELS_DIR=/models python -m service fetch "$MODEL"; fi

# --- what runs -----------------------------------------------------------------------------------------------------------
FROM ${BASE} AS runtime
ARG REVISION=""
LABEL org.opencontainers.image.title="knative-diffusion" \
      org.opencontainers.image.description="Serverless Stable Diffusion: a drop-in for the AUTOMATIC1111 HTTP API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin diffusion
# Everything that libraries want to write goes below /tmp: the root file system may be read-only. The driver's files
# come from the container runtime; which cards there are is said by the device plugin, never here.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SD_HOST=0.0.0.0 \
    SD_PORT=8000
WORKDIR /tmp
EXPOSE 8000
# Exec form: PID 1 is Python, and gets the SIGTERM.
ENTRYPOINT ["python", "-m", "service"]

FROM runtime AS front
ARG VERSION=0.2.0
LABEL org.opencontainers.image.version="${VERSION}-front"
COPY --from=front-dependencies /opt/venv /opt/venv
COPY --from=service /front /app
USER 10001:10001
CMD ["front"]

FROM runtime AS ui
ARG VERSION=0.2.0
LABEL org.opencontainers.image.version="${VERSION}-ui"
COPY --from=ui-dependencies /opt/venv /opt/venv
COPY --from=service /front /app
USER 10001:10001
# The address of the service is SD_UI_URL.
CMD ["ui"]

FROM runtime
ARG VARIANT
ARG COMPILER=""
ARG VERSION=0.2.0
LABEL org.opencontainers.image.version="${VERSION}-${VARIANT}"
# hadolint ignore=DL3008
RUN if [ -n "$COMPILER" ]; then \
      apt-get update; apt-get install -y --no-install-recommends gcc libc6-dev; rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=weights /models /models
COPY --from=service /app /app
USER 10001:10001
CMD ["serve"]
