# One static binary in an image that holds nothing else but root certificates.

FROM node:22-bookworm-slim AS app
WORKDIR /src
COPY clientsdk/typescript clientsdk/typescript
COPY demo/app demo/app
RUN cd clientsdk/typescript && npm ci --ignore-scripts && npm run build
RUN cd demo/app && npm ci --ignore-scripts && npm run build

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
COPY --from=app /src/demo/web/app demo/web/app
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/millrace ./cmd/millrace
RUN mkdir -m 1777 /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# Source transactions beyond decoder.batch_max_bytes are spooled there.
COPY --from=build /out/tmp /tmp
COPY --from=build /out/millrace /millrace
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/millrace"]
CMD ["serve", "-c", "/etc/millrace/millrace.yaml"]
