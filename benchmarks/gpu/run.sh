#!/usr/bin/env bash
# Run a stage on the GPU machine: bash benchmarks/gpu/run.sh STAGE [FLAGS OF THE STAGE]
# Unpacks the packs that were carried into .gpu/site, where later calls find them, and runs the
# stage's script with that folder and this project before the machine's own packages; without a
# stage it only unpacks. Results go to $OUT, or to outputs/gpu/results where it is not set.
set -euo pipefail
cd "$(dirname "$0")/../.."

site="$PWD/.gpu/site"
mkdir -p "$site/.unpacked"
for pack in .gpu/packs/*.tar.xz; do
    name=$(basename "$pack" .tar.xz)
    [ -f "$pack" ] || continue
    if ! cmp -s <(cksum <"$pack") "$site/.unpacked/$name"; then
        "${PYTHON:-python3}" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="tar")' \
            "$pack" "$site"
        cksum <"$pack" >"$site/.unpacked/$name"
    fi
done

libraries=$(ldconfig -p 2>/dev/null || true)
if [ -d "$site/libraries" ] && [[ $libraries != *libEGL.so.1* || $libraries != *libvulkan.so.1* ]]; then
    export LD_LIBRARY_PATH="$site/libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
driver=/usr/local/nvidia/share  # where some containers have the driver's own descriptions
if [ -f $driver/vulkan/icd.d/nvidia_icd.json ]; then
    export VK_DRIVER_FILES="${VK_DRIVER_FILES:-$driver/vulkan/icd.d/nvidia_icd.json}"
    export VK_ICD_FILENAMES="$VK_DRIVER_FILES"  # SAPIEN looks here
    export __EGL_VENDOR_LIBRARY_FILENAMES="${__EGL_VENDOR_LIBRARY_FILENAMES:-$driver/glvnd/egl_vendor.d/10_nvidia.json}"
fi
export PYTHONPATH="$site:$PWD/src" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OUT="${OUT:-$PWD/outputs/gpu/results}"
mkdir -p "$OUT"
[ $# -gt 0 ] || exit 0
stage="$1"
shift
exec "${PYTHON:-python3}" "benchmarks/gpu/$stage.py" "$@"
