# Both images may be replaced by local ones: RUST_IMAGE needs cargo and a C compiler, BASE_IMAGE a shell and the same or a newer glibc.
ARG RUST_IMAGE=rust:1-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# The dependencies alone, in a layer that lives until they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src/bin && touch src/lib.rs \
    && for bin in kv primary secondary; do echo 'fn main() {}' >src/bin/$bin.rs; done \
    && cargo build --release --locked --bins \
    && rm -r src
COPY src src
# Cargo goes by times, and those of the files above may be older than the empty ones were.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bins \
    && install -D -t /out target/release/kv target/release/primary target/release/secondary

FROM ${BASE_IMAGE}
COPY --from=build /out/ /usr/local/bin/
RUN install -d -m 750 -o 10001 -g 10001 /data
# Nothing is written but the journal, so the root may be read-only.
ENV KV_DATA_DIR=/data HEALTH_ADDRESS=127.0.0.1:8080
VOLUME /data
WORKDIR /data
USER 10001:10001
EXPOSE 8080 8081
# With TLS, HEALTH_ADDRESS must be a host of the certificate, and KV_TLS_CA be set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD kv --timeout 3s "$HEALTH_ADDRESS" STATS >/dev/null
CMD ["kv", "--help"]
