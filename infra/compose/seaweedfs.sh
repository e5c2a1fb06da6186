#!/bin/sh
# Serves S3 with the two keys of the environment, and makes the buckets. Everything but S3 listens on the loopback only:
# SeaweedFS's master, volume and filer ports ask nobody who he is.
set -eu
if [ "$(id -u)" = 0 ]; then
    # Only a fresh volume: this root may change owners, and may not look into folders that are another user's.
    [ "$(stat -c %u /data)" = 1000 ] || chown -R 1000:1000 /data
    # The official image brings su-exec, Debian setpriv.
    if command -v su-exec >/dev/null; then exec su-exec 1000:1000 /bin/sh "$0"; fi
    exec setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all /bin/sh "$0"
fi
umask 077
export HOME=/tmp
cat >/tmp/s3.json <<CONF
{"identities": [{"name": "plinth", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
                 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
CONF
rm -f /tmp/buckets
make_buckets() {
    while :; do
        sleep 0.5
        known=$(echo s3.bucket.list | weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888 2>/dev/null) || continue
        for bucket in $S3_BUCKETS; do
            echo "$known" | grep -qw "$bucket" || { echo "s3.bucket.create -name $bucket"; }
        done >/tmp/wanted
        [ -s /tmp/wanted ] || break
        weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888 </tmp/wanted >/dev/null 2>&1 || true
    done
    touch /tmp/buckets
}
make_buckets &
exec weed -logtostderr=true server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.volumeSizeLimitMB=256 -master.telemetry=false -volume.max=0 -volume.index=leveldb \
    -metricsIp=0.0.0.0 -metricsPort=9327 -filer=true -filer.disableHttp=true \
    -s3=true -s3.port=8333 -s3.ip.bind=0.0.0.0 -s3.config=/tmp/s3.json -s3.autoCreateBucket=false \
    -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0
