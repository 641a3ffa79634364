#!/usr/bin/env bash
# Make a software Vulkan driver available for rendering without a GPU: Mesa 23 or newer.
# Does nothing where SAPIEN can already render. Installs only as root on Debian or Ubuntu; elsewhere
# it says what to install, and the demo goes on without images.
set -uo pipefail
python="$1"

renders() {
    "$python" - <<'PY'
import sys
from e0_maniskill import rendering_available
available, reason = rendering_available()
print(reason)
sys.exit(0 if available else 1)
PY
}

if [ "${E0_STATE_ONLY:-}" = 1 ] || renders; then exit 0; fi

explain() {
    cat <<'TEXT'
No usable Vulkan driver was found, so images cannot be rendered and the policy will be trained on
the simulator's state instead (the report says so). To get images, install a Vulkan loader and a
driver, then run the same command again: on a GPU machine the vendor's driver with Vulkan; without
a GPU Mesa 23 or newer (Debian and Ubuntu: the packages mesa-vulkan-drivers and libvulkan1; on
Debian 12 from bookworm-backports, because its own Mesa 22.3 crashes).
TEXT
}

# The backports suite of the mirror that this machine already uses, unless it is there.
add_backports() {
    grep -qs '^[^#]*bookworm-backports' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} && return
    local mirror
    mirror=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
        awk '/^URIs:/ {print $2; exit}
            $1 == "deb" {sub(/\[[^]]*\] */, ""); print $2; exit}')
    [ -n "$mirror" ] || return 1
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$key] $mirror bookworm-backports main" \
        >/etc/apt/sources.list.d/bookworm-backports-mesa.list
}

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then explain; exit 0; fi
. /etc/os-release
release=()
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    add_backports || { explain; exit 0; }
    release=(-t bookworm-backports)
fi
apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${release[@]}" mesa-vulkan-drivers libvulkan1 >/dev/null
renders || explain
exit 0
