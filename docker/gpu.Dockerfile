# GPU image for `horen serve` and `horen worker --device cuda`: vLLM's own image of the version that the plugin is tested with.
FROM vllm/vllm-openai:v0.32.0

WORKDIR /opt/horen
COPY pyproject.toml README.md LICENSE ./
COPY horen_vllm horen_vllm
COPY migrations migrations
# The image has vLLM, torch and transformers; pip adds what is missing and leaves those as they are.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[gpu,s3]"

ENV HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
RUN useradd --create-home --uid 10001 horen
USER 10001
ENTRYPOINT ["horen"]
CMD ["serve", "--help"]
