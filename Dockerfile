# One file, three images: `docker build --target gateway|ingestor|billing-worker .`

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p gateway -p ingestor -p billing-worker

FROM debian:bookworm-slim AS runtime
RUN useradd --system --no-create-home trendit
USER trendit
# Listen on all interfaces of the container. Compose publishes them on 127.0.0.1 only.
ENV ADMIN_ADDR=0.0.0.0:9090 LOG_FORMAT=json
EXPOSE 9090
# Asks /readyz with bash, because the image has no HTTP client.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9090 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]

FROM runtime AS gateway
COPY --from=build /src/target/release/gateway /usr/local/bin/gateway
# The user of the image owns this directory. Mount a volume here and set SPOOL_DIR=/spool.
USER root
RUN install --directory --owner trendit /spool
USER trendit
ENV GATEWAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["gateway"]

FROM runtime AS ingestor
COPY --from=build /src/target/release/ingestor /usr/local/bin/ingestor
ENTRYPOINT ["ingestor"]

FROM runtime AS billing-worker
COPY --from=build /src/target/release/billing-worker /usr/local/bin/billing-worker
ENV BILLING_LISTEN=0.0.0.0:8081
EXPOSE 8081
ENTRYPOINT ["billing-worker"]
