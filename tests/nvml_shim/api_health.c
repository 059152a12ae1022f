/* How a GPU is: memory errors and repairs, lifetime, and its links. */
#include <stdio.h>
#include <string.h>

#include "shim.h"

/* Drivers in which a call first appeared, where an older one would lack the symbol. The captures
 * show inactive remappings at 595 and not at 590; the odometer is in R610's documentation. */
enum { FIRST_REMAPPED_V2 = 595, FIRST_BBX_TIME = 610 };

static nvmlReturn_t two_modes(enum function function, nvmlDevice_t device, unsigned int *first,
                              enum key key, unsigned int *second, enum key other)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    int64_t a, b;

    if (result != NVML_SUCCESS)
        return result;
    if (!first || !second)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (gpu_value(&call, key, &a) || gpu_value(&call, other, &b))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *first = (unsigned int)a;
    *second = (unsigned int)b;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned int *mode,
                                           unsigned int *pending)
{
    return two_modes(FN_nvmlDeviceGetEccMode, device, mode, K_ecc_mode, pending,
                     K_ecc_mode_pending);
}

ANSWER_U32(nvmlDeviceGetDefaultEccMode, ecc_mode)

/* Error types: 0 corrected, 1 uncorrected. Counters: 0 volatile, 1 aggregate. */
NVML_API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int type,
                                                  unsigned int counter, unsigned long long *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetTotalEccErrors, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || type > 1 || counter > 1)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_ecc_mode] != 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *out = (unsigned long long)ecc_total(call.gpu, type == 1, counter == 1);
    return call_end(&call, NVML_SUCCESS);
}

/* Locations: 2 device memory, 7 SRAM; the captures answer N/A for every other one. */
NVML_API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned int type,
                                                      unsigned int counter, unsigned int location,
                                                      unsigned long long *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetMemoryErrorCounter, device);
    int64_t dram, total;

    if (result != NVML_SUCCESS)
        return result;
    if (!out || type > 1 || counter > 1 || location > 7)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_ecc_mode] != 1 || (location != 2 && location != 7))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    total = ecc_total(call.gpu, type == 1, counter == 1);
    dram = call.gpu->value[K_ecc_dram_corrected_volatile + 2 * type + counter];
    *out = (unsigned long long)(location == 2 ? dram : total - dram);
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, unsigned int type,
                                                     unsigned int counter,
                                                     nvmlEccErrorCounts_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetDetailedEccErrors, device);

    if (result != NVML_SUCCESS)
        return result;
    if (!out || type > 1 || counter > 1)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.gpu->value[K_ecc_mode] != 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *out = (nvmlEccErrorCounts_t){
        .deviceMemory = (unsigned long long)
                            call.gpu->value[K_ecc_dram_corrected_volatile + 2 * type + counter]};
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device,
                                                      nvmlEccSramErrorStatus_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetSramEccErrorStatus, device);
    const int64_t *v;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    v = call.gpu->value;
    if (v[K_ecc_mode] != 1)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    out->aggregateUncParity = (unsigned long long)v[K_ecc_sram_parity_aggregate];
    out->aggregateUncSecDed = (unsigned long long)v[K_ecc_sram_secded_aggregate];
    out->aggregateCor = (unsigned long long)v[K_ecc_sram_corrected_aggregate];
    out->volatileUncParity = (unsigned long long)v[K_ecc_sram_parity_volatile];
    out->volatileUncSecDed = (unsigned long long)v[K_ecc_sram_secded_volatile];
    out->volatileCor = (unsigned long long)v[K_ecc_sram_corrected_volatile];
    out->bucketL2 = (unsigned long long)v[K_ecc_sram_source_l2];
    out->bucketSm = (unsigned long long)v[K_ecc_sram_source_sm];
    out->bucketPcie = (unsigned long long)v[K_ecc_sram_source_pcie];
    out->bucketMcu = (unsigned long long)v[K_ecc_sram_source_mcu];
    out->bucketOther = (unsigned long long)v[K_ecc_sram_source_other];
    out->bThresholdExceeded = (unsigned int)v[K_ecc_sram_threshold_exceeded];
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected,
                                                unsigned int *uncorrected, unsigned int *pending,
                                                unsigned int *failed)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetRemappedRows, device);
    const int64_t *v;

    if (result != NVML_SUCCESS)
        return result;
    if (!corrected || !uncorrected || !pending || !failed)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    v = call.gpu->value;
    if (mig_hides(&call) || v[K_remapped_rows_corrected] == N_A)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    *corrected = (unsigned int)v[K_remapped_rows_corrected];
    *uncorrected = (unsigned int)v[K_remapped_rows_uncorrected];
    *pending = (unsigned int)v[K_remapped_rows_pending];
    *failed = (unsigned int)v[K_remapped_rows_failed];
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device,
                                                   nvmlRemappedRowsInfo_v2_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetRemappedRows_v2, device);
    int64_t corrected, uncorrected;
    const int64_t *v;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    v = call.gpu->value;
    corrected = v[K_remapped_rows_corrected_inactive];
    uncorrected = v[K_remapped_rows_uncorrected_inactive];
    if (corrected == AUTO && uncorrected == AUTO &&
        driver_major(call.scenario) < FIRST_REMAPPED_V2)
        return call_end(&call, NVML_ERROR_FUNCTION_NOT_FOUND);
    if (mig_hides(&call) || v[K_remapped_rows_corrected] == N_A || corrected == N_A)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    out->corrActive = (unsigned int)v[K_remapped_rows_corrected];
    out->corrInactive = corrected == AUTO ? 0 : (unsigned int)corrected;
    out->uncActive = (unsigned int)v[K_remapped_rows_uncorrected];
    out->uncInactive = uncorrected == AUTO || uncorrected == N_A ? 0 : (unsigned int)uncorrected;
    out->bPending = (unsigned int)v[K_remapped_rows_pending];
    out->bFailure = (unsigned int)v[K_remapped_rows_failed];
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device,
                                                        nvmlRowRemapperHistogram_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetRowRemapperHistogram, device);
    const int64_t *v;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    v = call.gpu->value;
    if (mig_hides(&call) || v[K_remap_banks_max] == N_A)
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    out->max = (unsigned int)v[K_remap_banks_max];
    out->high = (unsigned int)v[K_remap_banks_high];
    out->partial = (unsigned int)v[K_remap_banks_partial];
    out->low = (unsigned int)v[K_remap_banks_low];
    out->none = (unsigned int)v[K_remap_banks_none];
    return call_end(&call, NVML_SUCCESS);
}

/* Causes: 0 single-bit, 1 double-bit errors. Addresses are made up: one 64 KiB page after another
 * for each page that the scenario retires. */
static nvmlReturn_t retired_pages(enum function function, nvmlDevice_t device, unsigned int cause,
                                  unsigned int *count, unsigned long long *pages,
                                  unsigned long long *times)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);
    unsigned int room;
    int64_t retired;

    if (result != NVML_SUCCESS)
        return result;
    if (!count || cause > 1)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, (enum key)(K_retired_pages_sbe + cause), &retired);
    if (result != NVML_SUCCESS)
        return call_end(&call, result);
    room = *count;
    *count = (unsigned int)retired;
    if (room < *count || (*count && !pages))
        return call_end(&call, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned int i = 0; i < *count; i++) {
        pages[i] = (i + 1ULL) << 16;
        if (times)
            times[i] = 0; /* when is not recorded */
    }
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned int cause,
                                                unsigned int *count, unsigned long long *pages)
{
    return retired_pages(FN_nvmlDeviceGetRetiredPages, device, cause, count, pages, NULL);
}

/* The binding's sizing call leaves the last argument out, so it is only touched with pages. */
NVML_API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned int cause,
                                                   unsigned int *count, unsigned long long *pages,
                                                   unsigned long long *times)
{
    return retired_pages(FN_nvmlDeviceGetRetiredPages_v2, device, cause, count, pages,
                         pages ? times : NULL);
}

ANSWER_U32(nvmlDeviceGetRetiredPagesPendingStatus, retired_pages_pending)

NVML_API nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetRepairStatus, device);
    int64_t channel, tpc;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(*out, 1))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if (gpu_value(&call, K_repair_channel_pending, &channel) ||
        gpu_value(&call, K_repair_tpc_pending, &tpc))
        return call_end(&call, NVML_ERROR_NOT_SUPPORTED);
    out->bChannelRepairPending = (unsigned int)channel;
    out->bTpcRepairPending = (unsigned int)tpc;
    return call_end(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetUnrepairableMemoryFlag_v1(nvmlDevice_t device,
                                                             nvmlUnrepairableMemory_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetUnrepairableMemoryFlag_v1, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_unrepairable_memory, &value);
    if (result == NVML_SUCCESS)
        out->word[call.gpu->layout == LAYOUT_BINDING] = (unsigned int)value;
    return call_end(&call, result);
}

/* Seconds the driver has been loaded over the GPU's life: a year, unless the scenario says. */
NVML_API nvmlReturn_t nvmlDeviceGetBBXTimeData_v1(nvmlDevice_t device, nvmlBBXTimeData_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetBBXTimeData_v1, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_bbx_time_run_s, &value);
    if (result == NVML_SUCCESS && value == AUTO) {
        if (driver_major(call.scenario) < FIRST_BBX_TIME)
            return call_end(&call, NVML_ERROR_FUNCTION_NOT_FOUND);
        value = 8760 * 3600 + (int64_t)(monotonic_us() / 1000000);
    }
    if (result == NVML_SUCCESS)
        out->timeRun = (unsigned int)value;
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetLastBBXFlushTime(nvmlDevice_t device,
                                                    unsigned long long *timestamp,
                                                    unsigned long *duration_us)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetLastBBXFlushTime, device);
    int64_t value;

    if (result != NVML_SUCCESS)
        return result;
    if (!timestamp || !duration_us)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_bbx_flush_timestamp_us, &value);
    if (result == NVML_SUCCESS) {
        *timestamp = (unsigned long long)value;
        *duration_us = 0;
    }
    return call_end(&call, result);
}

ANSWER_U32(nvmlDeviceGetCurrPcieLinkGeneration, pcie_gen)
ANSWER_U32(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
ANSWER_U32(nvmlDeviceGetMaxPcieLinkGeneration, pcie_gen_max)
ANSWER_U32(nvmlDeviceGetMaxPcieLinkWidth, pcie_width_max)
ANSWER_U32(nvmlDeviceGetGpuMaxPcieLinkGeneration, pcie_gen_max)
ANSWER_U32(nvmlDeviceGetPcieReplayCounter, pcie_replay_count)

/* Directions: 0 sent, 1 received; [KiB/s]. The real call takes 20 ms; here it takes what
 * delay_ms says. */
NVML_API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned int direction,
                                                  unsigned int *out)
{
    if (direction > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    return answer_u32(FN_nvmlDeviceGetPcieThroughput, device,
                      direction == 0 ? K_pcie_tx_kibps : K_pcie_rx_kibps, out);
}

static nvmlReturn_t link_check(const struct call *call, unsigned int link, const void *out)
{
    if (!out || link >= NVML_NVLINK_MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((int64_t)link >= call->gpu->value[K_nvlink_count])
        return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

static nvmlReturn_t of_link(enum function function, nvmlDevice_t device, unsigned int link,
                            unsigned int field, int64_t *value, const void *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, function, device);

    if (result != NVML_SUCCESS)
        return result;
    result = link_check(&call, link, out);
    if (result == NVML_SUCCESS)
        result = link_value(&call, field, link, value);
    return call_end(&call, result);
}

/* The first nvlink_active of nvlink_count links are up. */
NVML_API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                               unsigned int *out)
{
    int64_t value;
    nvmlReturn_t result = of_link(FN_nvmlDeviceGetNvLinkState, device, link, 165, &value, out);

    if (result == NVML_SUCCESS)
        *out = (unsigned int)value;
    return result;
}

NVML_API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link,
                                                 unsigned int *out)
{
    int64_t value;
    nvmlReturn_t result = of_link(FN_nvmlDeviceGetNvLinkVersion, device, link, 166, &value, out);

    if (result == NVML_SUCCESS)
        *out = (unsigned int)value;
    return result;
}

/* Counters: 0 replay, 1 recovery, 2 CRC. */
NVML_API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link,
                                                      unsigned int counter,
                                                      unsigned long long *out)
{
    int64_t value;
    nvmlReturn_t result;

    if (counter > 2)
        return NVML_ERROR_NOT_SUPPORTED;
    result = of_link(FN_nvmlDeviceGetNvLinkErrorCounter, device, link, 161 + counter, &value, out);
    if (result == NVML_SUCCESS)
        *out = (unsigned long long)value;
    return result;
}

/* The cluster's UUID; all zero in the captures, and where the scenario's text is not 32 digits. */
static void cluster_uuid(const struct gpu *gpu, unsigned char *out)
{
    const char *text = gpu->text[T_fabric_cluster_uuid];
    unsigned int byte;

    memset(out, 0, 16);
    for (int i = 0; i < 16; i++) {
        text += *text == '-';
        if (sscanf(text, "%2x", &byte) != 1)
            return;
        out[i] = (unsigned char)byte;
        text += 2;
    }
}

NVML_API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetGpuFabricInfo, device);
    int64_t state;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    result = gpu_value(&call, K_fabric_state, &state);
    if (result == NVML_SUCCESS) {
        cluster_uuid(call.gpu, out->clusterUuid);
        out->status = (nvmlReturn_t)call.gpu->value[K_fabric_status];
        out->cliqueId = (uint32_t)call.gpu->value[K_fabric_clique_id];
        out->state = (uint32_t)state;
    }
    return call_end(&call, result);
}

NVML_API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *out)
{
    struct call call;
    nvmlReturn_t result = call_begin_gpu(&call, FN_nvmlDeviceGetGpuFabricInfoV, device);
    int64_t state;

    if (result != NVML_SUCCESS)
        return result;
    if (!out)
        return call_end(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (out->version != VERSION_WORD(nvmlGpuFabricInfo_v3_t, 3) &&
        out->version != VERSION_WORD(nvmlGpuFabricInfo_v2_t, 2))
        return call_end(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    result = gpu_value(&call, K_fabric_state, &state);
    if (result != NVML_SUCCESS)
        return call_end(&call, result);
    cluster_uuid(call.gpu, out->clusterUuid);
    out->status = (nvmlReturn_t)call.gpu->value[K_fabric_status];
    out->cliqueId = (uint32_t)call.gpu->value[K_fabric_clique_id];
    out->state = (uint32_t)state;
    out->healthMask = (uint32_t)call.gpu->value[K_fabric_health_mask];
    if (out->version == VERSION_WORD(nvmlGpuFabricInfo_v3_t, 3)) /* the older one is shorter */
        out->healthSummary = (uint8_t)call.gpu->value[K_fabric_health_summary];
    return call_end(&call, NVML_SUCCESS);
}
