#!/bin/sh
# What one does without this project: moves container $1 from here to host $2.
#
#   script.sh ID HOST BUNDLE IMAGES
#
# The bundle goes first, while the container runs. The images are kept in memory on both
# sides (IMAGES is on a tmpfs), so no disk slows it down.
set -e
id=$1 host=$2 bundle=$3 images=$4

tar -C "$bundle" -cf - . | zstd -1 -q | ssh "$host" "mkdir -p $bundle && zstd -dq | tar -C $bundle -xf -"
runc checkpoint --image-path "$images" "$id" >/dev/null
tar -C "$images" -cf - . | zstd -1 -q | ssh "$host" "mkdir -p $images && zstd -dq | tar -C $images -xf -"
ssh "$host" "runc restore -d --image-path $images --bundle $bundle $id </dev/null >/dev/null 2>&1 && rm -r $images"
rm -r "$images"
