/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The TAP interface by which a district's switch reaches the outside (tuntap, netdevice(7)). */
#include "control/tap.h"
#include "control/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

char *
tap_name(const char *district)
{
    if (strlen(district) <= IFNAMSIZ - 1 - strlen("dst-"))
        return g_strconcat("dst-", district, NULL);
    g_autofree char *hash = g_compute_checksum_for_string(G_CHECKSUM_SHA256, district, -1);
    return g_strdup_printf("dst-%.10s", hash);
}

static int
tap_error(GError **error, const char *name, const char *what, const char *remedy)
{
    g_set_error(error, CONTROL_ERROR, CONTROL_ERROR_FAILED,
                "network interface %s: cannot %s: %s: %s", name, what, g_strerror(errno), remedy);
    return -1;
}

static int
tap_attach(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    g_strlcpy(request.ifr_name, name, IFNAMSIZ);
    if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0)
        return fd;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return -1;
}

static gboolean
tap_join(int sock, const char *name, const char *bridge, GError **error)
{
    struct ifreq request = {.ifr_ifindex = (int)if_nametoindex(name)};

    g_strlcpy(request.ifr_name, bridge, IFNAMSIZ);
    /* EBUSY: it is a port of a bridge already. */
    if (ioctl(sock, SIOCBRADDIF, &request) == 0 || errno == EBUSY)
        return TRUE;
    tap_error(error, bridge, "add a port", "create it: ip link add BRIDGE type bridge");
    return FALSE;
}

static gboolean
tap_bring_up(int sock, const char *name, GError **error)
{
    struct ifreq request = {0};

    g_strlcpy(request.ifr_name, name, IFNAMSIZ);
    if (ioctl(sock, SIOCGIFFLAGS, &request) == 0) {
        request.ifr_flags |= IFF_UP;
        if (ioctl(sock, SIOCSIFFLAGS, &request) == 0)
            return TRUE;
    }
    tap_error(error, name, "bring it up", "is CAP_NET_ADMIN missing?");
    return FALSE;
}

int
tap_open(const char *name, const char *bridge, GError **error)
{
    int fd = tap_attach(name);
    if (fd < 0)
        return tap_error(error, name, "open it", "load the tun module and run districtd as root");
    if (ioctl(fd, TUNSETPERSIST, 1) != 0) {
        tap_error(error, name, "keep it", "run districtd as root");
        close(fd);
        return -1;
    }
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    gboolean good = tap_join(sock, name, bridge, error) && tap_bring_up(sock, name, error);
    if (sock >= 0)
        close(sock);
    if (good)
        return fd;
    ioctl(fd, TUNSETPERSIST, 0);
    close(fd);
    return -1;
}

void
tap_remove(const char *name)
{
    if (if_nametoindex(name) == 0)
        return;
    int fd = tap_attach(name);
    if (fd < 0 || ioctl(fd, TUNSETPERSIST, 0) != 0)
        g_warning("network interface %s: cannot remove it: %s: ip link del %s", name,
                  g_strerror(errno), name);
    if (fd >= 0)
        close(fd);
}
