/* The energy counters: power integrated over CLOCK_MONOTONIC.
 *
 * The counter belongs to the driver, which all processes share: an agent that replaces a hung
 * reader must not see it fall. So the points of integration live in a small file beside the
 * scenario (SCENARIO.state), mapped by every process and locked with flock, which a killed process
 * lets go of by itself. Without a scenario nothing changes and none is needed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim.h"

struct anchor {
    uint64_t generation_plus_1; /* 0: never used */
    uint64_t power_mw, since_us, energy_mj;
};

static struct anchor own[GPUS_MAX];
static struct anchor *anchors = own;
static int file = -1;

void energy_open(const char *scenario_path)
{
    char path[4096];
    void *map;

    if (snprintf(path, sizeof path, "%s.state", scenario_path) >= (int)sizeof path)
        return;
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof own) < 0)
        return; /* a read-only folder: the counter is then this process's own */
    map = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED)
        anchors = map;
}

static uint64_t integrate(const struct anchor *anchor, uint64_t now_us)
{
    return anchor->energy_mj + anchor->power_mw * (now_us - anchor->since_us) / 1000000;
}

static void reconcile(const struct scenario *scenario, int slot, uint64_t now_us)
{
    struct anchor *anchor = &anchors[slot];
    int64_t power = scenario->gpu[slot].value[K_power_usage_mw];
    uint64_t power_mw = power == N_A ? 0 : (uint64_t)power;
    uint64_t generation = ((uint64_t)scenario->host.driver_generation << 32 |
                           (uint32_t)scenario->gpu[slot].value[K_resets]) + 1;

    /* First seen, or since a reboot: as if the driver had been loaded when the host started. */
    if (anchor->generation_plus_1 == 0 || anchor->since_us > now_us)
        *anchor = (struct anchor){generation, power_mw, 0, 0};
    else if (anchor->generation_plus_1 != generation)
        *anchor = (struct anchor){generation, power_mw, now_us, 0};
    else if (anchor->power_mw != power_mw)
        *anchor = (struct anchor){generation, power_mw, now_us, integrate(anchor, now_us)};
}

void energy_reconcile(const struct scenario *scenario)
{
    uint64_t now_us;

    if (file >= 0)
        flock(file, LOCK_EX);
    now_us = monotonic_us();
    for (int slot = 0; slot < scenario->host.gpus; slot++)
        reconcile(scenario, slot, now_us);
    if (file >= 0)
        flock(file, LOCK_UN);
}

uint64_t energy_mj(const struct scenario *scenario, int slot)
{
    uint64_t now_us, result;

    if (file >= 0)
        flock(file, LOCK_EX);
    now_us = monotonic_us();
    reconcile(scenario, slot, now_us);
    result = integrate(&anchors[slot], now_us);
    if (file >= 0)
        flock(file, LOCK_UN);
    return result;
}
