/* GPU performance monitoring: two samples of one GPU or instance give metrics over the time between them.
 *
 * Judgement: SM and graphics follow utilisation, DRAM bandwidth follows memory utilisation, the
 * occupancy and tensor shares of a busy GPU are typical of dense work; the instances of a GPU do as
 * it does. Scenarios set what matters to them with metric.ID = VALUE or metric.ID.INSTANCE = VALUE.
 */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

enum { BUSY_OCCUPANCY_PCT = 25, BUSY_TENSOR_PCT = 40 };

struct nvmlGpmSample_st {
    bool open;
    int slot, instance; /* SLOT_HOST until something was sampled */
    double value[NVML_GPM_METRIC_MAX];
    bool known[NVML_GPM_METRIC_MAX];
    struct nvmlGpmSample_st *next;
};

static struct nvmlGpmSample_st *samples;

static struct nvmlGpmSample_st *find_sample(nvmlGpmSample_t wanted)
{
    struct nvmlGpmSample_st *sample = samples;

    while (sample && sample != wanted)
        sample = sample->next;
    return sample && sample->open ? sample : NULL;
}

static void put(struct nvmlGpmSample_st *sample, unsigned int metric, double value)
{
    sample->value[metric] = value;
    sample->known[metric] = true;
}

static void take(struct nvmlGpmSample_st *sample, const struct call *call, int instance)
{
    const struct gpu *gpu = call->gpu;
    int64_t gpu_pct = gpu->value[K_utilization_gpu_pct];
    int64_t memory_pct = gpu->value[K_utilization_memory_pct];
    double busy = gpu_pct == N_A ? 0 : (double)gpu_pct; /* MIG hides it; it goes on all the same */

    sample->slot = call->slot;
    sample->instance = instance;
    memset(sample->known, 0, sizeof sample->known);
    put(sample, 1, busy);
    put(sample, 2, busy);
    put(sample, 3, busy * BUSY_OCCUPANCY_PCT / 100);
    for (unsigned int metric = 4; metric <= 13; metric++)
        put(sample, metric, 0);
    put(sample, 5, busy * BUSY_TENSOR_PCT / 100);
    put(sample, 10, memory_pct == N_A ? 0 : (double)memory_pct);
    put(sample, 20, (double)gpu->value[K_pcie_tx_kibps] / 1024);
    put(sample, 21, (double)gpu->value[K_pcie_rx_kibps] / 1024);
    put(sample, 60, (double)gpu->value[K_nvlink_rx_mibps]);
    put(sample, 61, (double)gpu->value[K_nvlink_tx_mibps]);
    if (instance != INSTANCE_NONE) /* one instance sees neither the GPU's slot nor its links */
        for (unsigned int metric = 20; metric <= 61; metric++)
            sample->known[metric] = false;
    for (int closest = 0; closest <= 1; closest++)
        for (int i = 0; i < gpu->metrics_count; i++) {
            const struct override *said = &gpu->metrics[i];
            int scope = closest ? instance : SCOPE_ANY;

            if (said->scope != scope || (closest && instance == INSTANCE_NONE) ||
                said->id >= NVML_GPM_METRIC_MAX)
                continue;
            put(sample, said->id, said->real);
            sample->known[said->id] = said->error <= 0;
        }
}

NVML_API nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlGpmQueryDeviceSupport, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != 1)
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    out->isSupportedDevice = call.gpu->value[K_gpm_supported] == 1;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, unsigned int *state)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlGpmQueryIfStreamingEnabled, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!state)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_gpm_supported] != 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *state = 0;
    return call_end(&call, NVML_SUCCESS);
}

/* Reuses a freed sample, so that an agent that frees what it takes runs for ever. */
NVML_API nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlGpmSampleAlloc);
    struct nvmlGpmSample_st *sample = samples;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    while (sample && sample->open)
        sample = sample->next;
    if (!sample) {
        sample = calloc(1, sizeof *sample);
        if (!sample)
            return call_end(&call, NVML_ERROR_MEMORY);
        sample->next = samples;
        samples = sample;
    }
    sample->open = true;
    sample->slot = SLOT_HOST;
    *out = sample;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t wanted)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlGpmSampleFree);
    struct nvmlGpmSample_st *sample;

    if (result != NVML_SUCCESS)
        return result;
    sample = find_sample(wanted);
    if (!sample)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    sample->open = false;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t wanted)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlGpmSampleGet, device);
    struct nvmlGpmSample_st *sample;

    if (result != NVML_SUCCESS)
        return result;
    sample = find_sample(wanted);
    if (!sample)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_gpm_supported] != 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    take(sample, &call, INSTANCE_NONE);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int instance,
                                          nvmlGpmSample_t wanted)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlGpmMigSampleGet, device);
    struct nvmlGpmSample_st *sample;
    struct instance found;

    if (result != NVML_SUCCESS)
        return result;
    sample = find_sample(wanted);
    if (!sample)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_gpm_supported] != 1 || !mig_hides(&call))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    if (!mig_instance(call.gpu, (int)instance, &found))
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    take(sample, &call, found.id);
    return call_end(&call, NVML_SUCCESS);
}

static void compute(nvmlGpmMetric_t *metric, const struct nvmlGpmSample_st *first,
                    const struct nvmlGpmSample_st *second)
{
    unsigned int id = metric->metricId;

    metric->metricInfo.shortName = metric->metricInfo.longName = "metric";
    metric->metricInfo.unit = id >= 20 ? "MiB/s" : "%";
    metric->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    if (id >= NVML_GPM_METRIC_MAX || !first->known[id] || !second->known[id])
        return;
    metric->value = (first->value[id] + second->value[id]) / 2;
    metric->nvmlReturn = NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_host(&call, FN_nvmlGpmMetricsGet);
    struct nvmlGpmSample_st *first, *second;

    if (result != NVML_SUCCESS)
        return result;
    if (!out || out->numMetrics > NVML_GPM_METRIC_MAX)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != 1)
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    first = find_sample(out->sample1);
    second = find_sample(out->sample2);
    if (!first || !second || first == second || first->slot == SLOT_HOST ||
        first->slot != second->slot || first->instance != second->instance)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned int i = 0; i < out->numMetrics; i++)
        compute(&out->metrics[i], first, second);
    return call_end(&call, NVML_SUCCESS);
}
