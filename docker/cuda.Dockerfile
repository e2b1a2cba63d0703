# docker build -f docker/cuda.Dockerfile -t wfm-ar:cuda . && docker run --rm --gpus all -v "$PWD/outputs:/worlds/outputs" wfm-ar:cuda demo
# PyTorch's wheels bring the CUDA libraries; the host brings the driver. Triton needs a C compiler when it runs.
FROM python:3.11-slim-bookworm

# versions of Debian packages are not pinned: the base image names the release, and its security updates are wanted
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libegl1 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /src/
COPY wfm_ar /src/wfm_ar
COPY kernels /src/kernels
COPY conf /src/conf
RUN pip install --no-cache-dir torch==2.13.0 \
    && pip install --no-cache-dir "/src[sim,lerobot,hdf5,gym]" \
    && rm -rf /src

RUN useradd --uid 1000 --create-home wfm && mkdir /worlds && chown wfm /worlds
USER 1000
WORKDIR /worlds
ENV OMP_WAIT_POLICY=passive MUJOCO_GL=egl
ENTRYPOINT ["wfm"]
CMD ["--help"]
