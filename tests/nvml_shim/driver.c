/* The pretended driver: which scenario holds, who is initialised, which handles are good, and the
 * gates every call passes: hang, delay, driver gone, GPU gone, injected error, GPU lost.
 *
 * One lock covers all of it. A call holds it from begin to end, but never while it hangs or waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

enum { HANG_POLL_MS = 50, SCENARIO_BYTES_MAX = 1 << 20 };

static const char DEFAULT_SCENARIO[] = "[host]\ngpus = 8\n[gpu *]\nprofile = h100\n";

/* Handles are never freed, so that one from before a reload can be told from garbage. */
struct nvmlDevice_st {
    int slot, instance;
    int64_t generation;
    unsigned int plugged;
    struct nvmlDevice_st *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool started;
static const char *scenario_path;
static int log_file = -1;
static struct stat scenario_stat;
static struct scenario *current; /* NULL while the scenario is wrong */
static struct nvmlDevice_st *handles;
static unsigned int plugged[GPUS_MAX]; /* counts how often each GPU came back */
static int init_count, init_failed;
static int64_t init_generation;
static uint64_t session;

void driver_lock(void)
{
    pthread_mutex_lock(&lock);
}

void driver_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

const struct scenario *driver_scenario(void)
{
    return current;
}

uint64_t driver_session(void)
{
    return session;
}

uint64_t monotonic_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Sleeps the whole time whatever signals arrive, as a call inside the kernel would. */
void sleep_ms(unsigned int ms)
{
    struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

/* One line per call, "FUNCTION GPU OUTCOME", in one write: processes may share the file. */
void driver_log(enum function function, int slot, const char *outcome)
{
    char line[160];
    int length;

    if (log_file < 0)
        return;
    if (slot == SLOT_HOST)
        length = snprintf(line, sizeof line, "%s - %s\n", function_name(function), outcome);
    else
        length = snprintf(line, sizeof line, "%s %d %s\n", function_name(function), slot, outcome);
    if (write(log_file, line, (size_t)length) < 0)
        log_file = -1; /* a full disk must not change what the calls answer */
}

static void log_result(enum function function, int slot, nvmlReturn_t result)
{
    char text[16];

    if (log_file < 0)
        return;
    snprintf(text, sizeof text, "%d", result);
    driver_log(function, slot, text);
}

static char *read_file(const char *path, size_t *length)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    char *text = file < 0 ? NULL : malloc(SCENARIO_BYTES_MAX);
    ssize_t got;

    *length = 0;
    while (text && (got = read(file, text + *length, SCENARIO_BYTES_MAX - *length)) != 0) {
        if (got < 0 && errno != EINTR) {
            free(text);
            text = NULL;
        } else if (got > 0) {
            *length += (size_t)got;
        }
    }
    if (file >= 0)
        close(file);
    return text;
}

static void adopt(struct scenario *new)
{
    for (int slot = 0; current && new && slot < GPUS_MAX; slot++) {
        bool before = slot < current->host.gpus && current->gpu[slot].present;
        bool after = slot < new->host.gpus && new->gpu[slot].present;

        bool reset = new->gpu[slot].value[K_resets] != current->gpu[slot].value[K_resets];

        if ((!before && after) || (reset && !new->gpu[slot].value[K_reset_keeps_handles]))
            plugged[slot]++;
    }
    if (new)
        energy_reconcile(new);
    free(current);
    current = new;
}

/* Every call asks whether the scenario is still the file it was; a writer replaces it by rename.
 * A wrong or missing file leaves no scenario, so every call fails until it is put right. */
void driver_refresh(void)
{
    struct stat now;
    size_t length;
    char *text;

    if (!started) {
        const char *log_path = getenv("ASSAY_SHIM_CALL_LOG");

        started = true;
        if (log_path)
            log_file = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        scenario_path = getenv("ASSAY_SHIM_SCENARIO");
        if (!scenario_path)
            adopt(scenario_parse(DEFAULT_SCENARIO, sizeof DEFAULT_SCENARIO - 1, "built in"));
        else
            energy_open(scenario_path);
    }
    if (!scenario_path)
        return;
    if (stat(scenario_path, &now) < 0) {
        if (current || scenario_stat.st_ino == 0)
            fprintf(stderr, "libnvidia-ml test shim: %s: %s\n", scenario_path, strerror(errno));
        scenario_stat = (struct stat){.st_ino = 1};
        adopt(NULL);
        return;
    }
    if (now.st_ino == scenario_stat.st_ino && now.st_size == scenario_stat.st_size &&
        now.st_mtim.tv_sec == scenario_stat.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == scenario_stat.st_mtim.tv_nsec)
        return;
    scenario_stat = now;
    text = read_file(scenario_path, &length);
    adopt(text ? scenario_parse(text, length, scenario_path) : NULL);
    free(text);
}

/* Calls that a library of NVIDIA's lacks, as its symbols say: Debian's 470.256.02, 535.261.03 and
 * 550.163.01, and the capture of 590.48.01, which has them all. In which driver between two of
 * these a call came is not known: the first number after the older one stands for it. Two more are
 * younger than all these, and answer for themselves (api_health.c). */
static const struct {
    enum function function;
    int since;
} YOUNG[] = {
    {FN_nvmlSystemGetDriverBranch, 551},
    {FN_nvmlSystemGetConfComputeState, 471},
    {FN_nvmlSystemGetConfComputeSettings, 536},
    {FN_nvmlSystemGetConfComputeCapabilities, 471},
    {FN_nvmlSystemGetConfComputeGpusReadyState, 471},
    {FN_nvmlDeviceGetHandleByUUIDV, 551},
    {FN_nvmlDeviceGetGspFirmwareVersion, 471},
    {FN_nvmlDeviceGetPciInfoExt, 536},
    {FN_nvmlDeviceGetPdi, 551},
    {FN_nvmlDeviceGetModuleId, 471},
    {FN_nvmlDeviceGetNumGpuCores, 471},
    {FN_nvmlDeviceGetMemoryBusWidth, 471},
    {FN_nvmlDeviceGetPlatformInfo, 551},
    {FN_nvmlDeviceGetConfComputeGpuCertificate, 471},
    {FN_nvmlDeviceGetConfComputeGpuAttestationReport, 471},
    {FN_nvmlDeviceGetJpgUtilization, 471},
    {FN_nvmlDeviceGetOfaUtilization, 471},
    {FN_nvmlDeviceGetMemoryInfo_v2, 471},
    {FN_nvmlDeviceGetTemperatureV, 551},
    {FN_nvmlDeviceGetMarginTemperature, 551},
    {FN_nvmlDeviceGetNumFans, 471},
    {FN_nvmlDeviceGetCurrentClocksEventReasons, 471},
    {FN_nvmlDeviceGetSupportedClocksEventReasons, 471},
    {FN_nvmlDeviceGetComputeRunningProcesses_v3, 471},
    {FN_nvmlDeviceGetGraphicsRunningProcesses_v3, 471},
    {FN_nvmlDeviceGetMPSComputeRunningProcesses_v3, 471},
    {FN_nvmlDeviceGetDefaultEccMode, 471},
    {FN_nvmlDeviceGetSramEccErrorStatus, 471},
    {FN_nvmlDeviceGetRepairStatus, 551},
    {FN_nvmlDeviceGetUnrepairableMemoryFlag_v1, 551},
    {FN_nvmlDeviceGetLastBBXFlushTime, 471},
    {FN_nvmlDeviceGetGpuMaxPcieLinkGeneration, 471},
    {FN_nvmlDeviceGetGpuFabricInfo, 471},
    {FN_nvmlDeviceGetGpuFabricInfoV, 536},
    {FN_nvmlSystemEventSetCreate, 551},
    {FN_nvmlSystemEventSetFree, 551},
    {FN_nvmlSystemRegisterEvents, 551},
    {FN_nvmlSystemEventSetWait, 551},
    {FN_nvmlGpmQueryDeviceSupport, 471},
    {FN_nvmlGpmQueryIfStreamingEnabled, 471},
    {FN_nvmlGpmSampleAlloc, 471},
    {FN_nvmlGpmSampleFree, 471},
    {FN_nvmlGpmSampleGet, 471},
    {FN_nvmlGpmMigSampleGet, 471},
    {FN_nvmlGpmMetricsGet, 471},
};

static bool missing(const struct scenario *scenario, enum function function)
{
    for (size_t i = 0; i < sizeof YOUNG / sizeof *YOUNG; i++)
        if (YOUNG[i].function == function)
            return driver_major(scenario) < YOUNG[i].since;
    return false;
}

int driver_major(const struct scenario *scenario)
{
    return atoi(scenario->host.driver_version);
}

int index_of(const struct scenario *scenario, int slot)
{
    int index = 0;

    for (int i = 0; i < slot; i++)
        index += scenario->gpu[i].present;
    return index;
}

int slot_at(const struct scenario *scenario, unsigned int index)
{
    for (int slot = 0; slot < scenario->host.gpus; slot++)
        if (scenario->gpu[slot].present && index-- == 0)
            return slot;
    return -1;
}

nvmlDevice_t handle_of(const struct scenario *scenario, int slot, int instance)
{
    struct nvmlDevice_st *handle;

    for (handle = handles; handle; handle = handle->next)
        if (handle->slot == slot && handle->instance == instance &&
            handle->plugged == plugged[slot] &&
            handle->generation == scenario->host.driver_generation)
            return handle;
    handle = malloc(sizeof *handle);
    if (!handle)
        abort();
    *handle = (struct nvmlDevice_st){slot, instance, scenario->host.driver_generation,
                                     plugged[slot], handles};
    handles = handle;
    return handle;
}

nvmlReturn_t find_handle(const struct scenario *scenario, const void *what, int *slot)
{
    const struct nvmlDevice_st *handle = handles;

    while (handle && handle != what)
        handle = handle->next;
    if (!handle || handle->generation != scenario->host.driver_generation ||
        handle->plugged != plugged[handle->slot] || handle->slot >= scenario->host.gpus ||
        !scenario->gpu[handle->slot].present)
        return NVML_ERROR_INVALID_ARGUMENT;
    *slot = handle->slot;
    return NVML_SUCCESS;
}

/* Which instance a good handle is of; one that was destroyed leaves a handle that is not good. */
static nvmlReturn_t find_instance(struct call *call, const struct nvmlDevice_st *handle)
{
    if (handle->instance == INSTANCE_NONE)
        return NVML_SUCCESS;
    if (!mig_instance(call->gpu, handle->instance, &call->instance))
        return NVML_ERROR_INVALID_ARGUMENT;
    return mig_admits(call->function) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* The closest rule that says anything: this GPU's, then the host's. */
static int rule(const int *gpu, const int *host, enum function function)
{
    if (gpu && gpu[function] >= 0)
        return gpu[function];
    if (gpu && gpu[FN_ALL] >= 0)
        return gpu[FN_ALL];
    if (host[function] >= 0)
        return host[function];
    return host[FN_ALL] >= 0 ? host[FN_ALL] : 0;
}

/* Hangs while the scenario says so, then delays once. Both let go of the lock, so everything may
 * have changed: true means look again from the start. */
static bool wait_if_told(enum function function, int slot, bool *told, bool *delayed)
{
    const struct rules *gpu = slot == SLOT_HOST ? NULL : &current->gpu[slot].rules;
    const struct rules *host = &current->host.rules;
    int delay_ms;

    if (rule(gpu ? gpu->hang : NULL, host->hang, function)) {
        if (!*told)
            driver_log(function, slot, "hang");
        *told = true;
        driver_unlock();
        sleep_ms(HANG_POLL_MS);
        driver_lock();
        return true;
    }
    delay_ms = rule(gpu ? gpu->delay_ms : NULL, host->delay_ms, function);
    if (delay_ms > 0 && !*delayed) {
        *delayed = true;
        driver_unlock();
        sleep_ms((unsigned int)delay_ms);
        driver_lock();
        return true;
    }
    return false;
}

/* What the library says of itself needs no driver: so do NVIDIA's of 535 and 550. */
static nvmlReturn_t ready(enum function function)
{
    if (!current)
        return NVML_ERROR_UNKNOWN;
    if (missing(current, function))
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    if (function == FN_nvmlSystemGetNVMLVersion)
        return NVML_SUCCESS;
    if (init_count == 0 || init_generation != current->host.driver_generation)
        return NVML_ERROR_UNINITIALIZED;
    return NVML_SUCCESS;
}

static nvmlReturn_t injected(enum function function, int slot)
{
    const struct gpu *gpu = slot == SLOT_HOST ? NULL : &current->gpu[slot];
    int error = rule(gpu ? gpu->rules.error : NULL, current->host.rules.error, function);

    if (error)
        return error;
    if (!current->host.driver_loaded && function != FN_nvmlSystemGetNVMLVersion)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    return gpu && gpu->lost ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

nvmlReturn_t call_begin(struct call *call, enum function function, finder find, const void *what)
{
    bool told = false, delayed = false;
    nvmlReturn_t result;
    int slot;

    driver_lock();
    do {
        slot = SLOT_HOST;
        driver_refresh();
        result = ready(function);
        if (result == NVML_SUCCESS && find)
            result = what ? find(current, what, &slot) : NVML_ERROR_INVALID_ARGUMENT;
    } while (result == NVML_SUCCESS && wait_if_told(function, slot, &told, &delayed));
    if (result == NVML_SUCCESS)
        result = injected(function, slot);
    *call = (struct call){.function = function, .slot = slot, .scenario = current,
                          .gpu = slot == SLOT_HOST ? NULL : &current->gpu[slot],
                          .instance.id = INSTANCE_NONE};
    if (result == NVML_SUCCESS && find == find_handle)
        result = find_instance(call, what);
    if (result != NVML_SUCCESS)
        call_end(call, result);
    return result;
}

nvmlReturn_t call_begin_gpu(struct call *call, enum function function, nvmlDevice_t device)
{
    return call_begin(call, function, find_handle, device);
}

nvmlReturn_t call_begin_host(struct call *call, enum function function)
{
    return call_begin(call, function, NULL, NULL);
}

nvmlReturn_t call_end(const struct call *call, nvmlReturn_t result)
{
    log_result(call->function, call->slot, result);
    driver_unlock();
    return result;
}

/* After a reload the library must be initialised anew: the old count is worth nothing. */
static nvmlReturn_t initialise(enum function function)
{
    nvmlReturn_t result;

    if (!current)
        return NVML_ERROR_UNKNOWN;
    result = injected(function, SLOT_HOST);
    if (result != NVML_SUCCESS)
        return result;
    if (current->host.init_error &&
        (current->host.init_failures == 0 || init_failed < current->host.init_failures)) {
        init_failed++;
        return (nvmlReturn_t)current->host.init_error;
    }
    if (init_count == 0 || init_generation != current->host.driver_generation) {
        init_count = 0;
        init_generation = current->host.driver_generation;
        session++;
    }
    init_count++;
    return NVML_SUCCESS;
}

nvmlReturn_t driver_init(enum function function)
{
    bool told = false, delayed = false;
    nvmlReturn_t result;

    driver_lock();
    do
        driver_refresh();
    while (current && wait_if_told(function, SLOT_HOST, &told, &delayed));
    result = initialise(function);
    log_result(function, SLOT_HOST, result);
    driver_unlock();
    return result;
}

nvmlReturn_t driver_shutdown(void)
{
    bool told = false, delayed = false;
    nvmlReturn_t result;

    driver_lock();
    do
        driver_refresh();
    while (current && wait_if_told(FN_nvmlShutdown, SLOT_HOST, &told, &delayed));
    result = NVML_SUCCESS; /* also without any init: so do NVIDIA's libraries */
    if (init_count)
        init_count--;
    log_result(FN_nvmlShutdown, SLOT_HOST, result);
    driver_unlock();
    return result;
}
