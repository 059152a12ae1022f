/* Events: a set remembers, per GPU, the last sequence number it has seen. What happened before a
 * GPU was registered is never delivered, as with the real driver. */
#include <stdlib.h>

#include "shim.h"

/* A real driver blocks until there is an event; here the scenario is looked at this often. Whoever
 * measures CPU sets it as long as the wait itself, so that the pretence costs nothing. */
#define WAIT_POLL_MS_VARIABLE "ASSAY_SHIM_WAIT_POLL_MS"
enum { WAIT_POLL_MS = 50, WAIT_POLL_MS_MAX = 60000 };

#define SYSTEM_EVENTS 0x3ULL /* 1 the driver lets a GPU go, 2 it takes one */

struct nvmlEventSet_st {
    bool open;
    uint64_t session;
    nvmlDevice_t device[GPUS_MAX]; /* the handle that was registered, and is reported */
    uint64_t types[GPUS_MAX], seen[GPUS_MAX];
    struct nvmlEventSet_st *next;
};

static struct nvmlEventSet_st *sets; /* never freed: a stale pointer must be recognised */

static struct nvmlEventSet_st *find_set(nvmlEventSet_t wanted)
{
    struct nvmlEventSet_st *set = sets;

    while (set && set != wanted)
        set = set->next;
    return set && set->open && set->session == driver_session() ? set : NULL;
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device,
                                                       unsigned long long *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetSupportedEventTypes, device);
    int64_t types;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_event_types_supported, &types);
    if (result == NVML_SUCCESS)
        *out = (unsigned long long)types;
    return call_end(&call, result);
}

static nvmlReturn_t create(enum function function, nvmlEventSet_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, function);
    struct nvmlEventSet_st *set;

    if (result != NVML_SUCCESS)
        return result;
    set = out ? calloc(1, sizeof *set) : NULL;
    if (!set)
        return call_end(&call, out ? NVML_ERROR_MEMORY : NVML_ERROR_INVALID_ARGUMENT);
    set->open = true;
    set->session = driver_session();
    set->next = sets;
    sets = set;
    *out = set;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out)
{
    return create(FN_nvmlEventSetCreate, out);
}

NVML_API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                               nvmlEventSet_t wanted)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceRegisterEvents, device);
    struct nvmlEventSet_st *set;
    int64_t supported;

    if (result != NVML_SUCCESS)
        return result;
    set = find_set(wanted);
    if (!set)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_event_types_supported, &supported);
    if (result == NVML_SUCCESS && types & ~(unsigned long long)supported)
        result = NVML_ERROR_NOT_SUPPORTED;
    if (result != NVML_SUCCESS)
        return call_end(&call, result);
    if (!set->types[call.slot] && call.gpu->events_count)
        set->seen[call.slot] = call.gpu->events[call.gpu->events_count - 1].sequence;
    set->device[call.slot] = device;
    set->types[call.slot] |= types;
    return call_end(&call, NVML_SUCCESS);
}

/* The oldest event of any registered GPU that the set has not seen, or false. */
static bool next_event(const struct scenario *scenario, struct nvmlEventSet_st *set,
                       nvmlEventData_t *out, int *slot)
{
    const struct event *found = NULL;

    for (int i = 0; i < scenario->host.gpus; i++)
        for (int k = 0; set->types[i] && k < scenario->gpu[i].events_count; k++) {
            const struct event *event = &scenario->gpu[i].events[k];

            if (event->sequence <= set->seen[i] || !(event->type & set->types[i]))
                continue;
            if (!found || event->sequence < found->sequence) {
                found = event;
                *slot = i;
            }
            break;
        }
    if (!found)
        return false;
    set->seen[*slot] = found->sequence;
    *out = (nvmlEventData_t){set->device[*slot], found->type, found->data, NVML_INSTANCE_NONE,
                             NVML_INSTANCE_NONE};
    return true;
}

static unsigned int wait_poll_ms(void)
{
    const char *text = getenv(WAIT_POLL_MS_VARIABLE);
    long wished = text ? strtol(text, NULL, 10) : 0;

    return wished > 0 && wished <= WAIT_POLL_MS_MAX ? (unsigned int)wished : WAIT_POLL_MS;
}

static nvmlReturn_t wait_for_event(enum function function, nvmlEventSet_t wanted,
                                   nvmlEventData_t *out, unsigned int timeout_ms)
{
    uint64_t until_us = monotonic_us() + timeout_ms * 1000ULL;

    for (;;) {
        struct call call;
        nvmlReturn_t result = call_begin_host(&call, function);
        struct nvmlEventSet_st *set;

        if (result != NVML_SUCCESS)
            return result;
        set = find_set(wanted);
        if (!set || !out)
            return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
        if (next_event(call.scenario, set, out, &call.slot))
            return call_end(&call, NVML_SUCCESS);
        if (monotonic_us() >= until_us)
            return call_end(&call, NVML_ERROR_TIMEOUT);
        driver_unlock(); /* still the same call: nothing to log yet */
        sleep_ms(wait_poll_ms());
    }
}

NVML_API nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *out,
                                       unsigned int timeout_ms)
{
    return wait_for_event(FN_nvmlEventSetWait, set, out, timeout_ms);
}

NVML_API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out,
                                          unsigned int timeout_ms)
{
    return wait_for_event(FN_nvmlEventSetWait_v2, set, out, timeout_ms);
}

static nvmlReturn_t let_go(enum function function, nvmlEventSet_t wanted)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, function);
    struct nvmlEventSet_st *set;

    if (result != NVML_SUCCESS)
        return result;
    set = find_set(wanted);
    if (!set)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    set->open = false;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    return let_go(FN_nvmlEventSetFree, set);
}

/* Events of the system, bind 2 and unbind 1, by the same kind of set: slot 0 holds its marks. */
NVML_API nvmlReturn_t nvmlSystemEventSetCreate(nvmlSystemEventSetRequest_t *request)
{
    if (request && request->version != VERSION_WORD(*request, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return create(FN_nvmlSystemEventSetCreate, request ? &request->set : NULL);
}

NVML_API nvmlReturn_t nvmlSystemEventSetFree(nvmlSystemEventSetRequest_t *request)
{
    if (request && request->version != VERSION_WORD(*request, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return let_go(FN_nvmlSystemEventSetFree, request ? request->set : NULL);
}

NVML_API nvmlReturn_t nvmlSystemRegisterEvents(nvmlSystemRegisterEventRequest_t *request)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemRegisterEvents);
    const struct host *host;
    struct nvmlEventSet_st *set;

    if (result != NVML_SUCCESS)
        return result;
    if (!request)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (request->version != VERSION_WORD(*request, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    set = find_set(request->set);
    if (!set)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (request->eventTypes & ~SYSTEM_EVENTS)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    host = &call.scenario->host;
    if (!set->types[0] && host->events_count)
        set->seen[0] = host->events[host->events_count - 1].sequence;
    set->types[0] |= request->eventTypes;
    return call_end(&call, NVML_SUCCESS);
}

static unsigned int collect(const struct host *host, struct nvmlEventSet_st *set,
                            nvmlSystemEventSetWaitRequest_t *request)
{
    unsigned int found = 0;

    for (int i = 0; i < host->events_count && found < request->dataSize; i++) {
        const struct event *event = &host->events[i];

        if (event->sequence <= set->seen[0] || !(event->type & set->types[0]))
            continue;
        set->seen[0] = event->sequence;
        request->data[found++] =
            (nvmlSystemEventData_t){event->type, (unsigned int)event->data};
    }
    return found;
}

NVML_API nvmlReturn_t nvmlSystemEventSetWait(nvmlSystemEventSetWaitRequest_t *request)
{
    uint64_t until_us = monotonic_us() + (request ? request->timeoutms * 1000ULL : 0);

    for (;;) {
        struct call call;
        nvmlReturn_t result = call_begin_host(&call, FN_nvmlSystemEventSetWait);
        struct nvmlEventSet_st *set;

        if (result != NVML_SUCCESS)
            return result;
        if (request && request->version != VERSION_WORD(*request, 1))
            return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        set = request ? find_set(request->set) : NULL;
        if (!set || !request->data)
            return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
        request->numEvent = collect(&call.scenario->host, set, request);
        if (request->numEvent)
            return call_end(&call, NVML_SUCCESS);
        if (monotonic_us() >= until_us)
            return call_end(&call, NVML_ERROR_TIMEOUT);
        driver_unlock();
        sleep_ms(wait_poll_ms());
    }
}
