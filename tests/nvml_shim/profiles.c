/* What each model of GPU says, idle and loaded.
 *
 * Source: nvidia-smi captures in nvidia_gpu_exporter (github.com/utkuozdemir/nvidia_gpu_exporter,
 * MIT, internal/captures), restated: H100 80GB HBM3 and H200 at driver 590.48.01, L40S at 595.80.
 * "Loaded" is gpu-burn with two memory holders on the H100 and H200; on the L40S it is two video
 * encodes. h100-mig is the same H100 with MIG on, cut 3g.40gb, 2g.20gb and twice 1g.10gb, with the
 * same load inside its first instance. Serials, UUIDs and PDIs are masked; the shim makes its own
 * (scenario.c).
 * Not from the captures: cuda_cores and memory_bus_width_bits (NVIDIA's data sheets), and which
 * event types and NVLink version a model reports (judgement).
 *
 * b200 is INVENTED: no capture of a Blackwell card is at hand. Its memory, power and link speed are
 * those of NVIDIA's data sheet and of facts about GB200; everything else (part number, firmware,
 * identifiers, temperatures, clocks, what its counters answer) only gives the fields that Blackwell
 * alone has something to say. It proves nothing about a real one.
 */
#include <string.h>

#include "shim.h"

struct setting {
    enum key key;
    int64_t value;
};

struct profile {
    const char *name;
    const char *text[TEXT_COUNT];
    const struct setting *common, *fixed, *state[2]; /* state: by load */
    const char *mig_instances[2];
};

#define END {KEY_COUNT, 0}

static const struct setting HOPPER_COMMON[] = {
    {K_architecture, 9},
    {K_compute_capability_major, 9},
    {K_compute_capability_minor, 0},
    {K_cuda_cores, 16896},
    {K_mig_mode, 0},
    {K_power_limit_mw, 700000},
    {K_power_default_limit_mw, 700000},
    {K_power_min_limit_mw, 200000},
    {K_power_max_limit_mw, 700000},
    {K_tlimit_shutdown_c, -8},
    {K_tlimit_slowdown_c, -2},
    {K_tlimit_gpu_max_c, 0},
    {K_tlimit_memory_max_c, 0},
    {K_clock_max_graphics_mhz, 1980},
    {K_clock_max_sm_mhz, 1980},
    {K_clock_max_video_mhz, 1545},
    {K_edpp_multiplier_pct, 100},
    {K_unrepairable_memory, 0},
    {K_pcie_gen, 5},
    {K_pcie_gen_max, 5},
    {K_nvlink_count, 18},
    {K_nvlink_speed_mbps, 26562},
    {K_nvlink_version, 6},
    {K_fabric_state, 3},
    {K_gpm_supported, 1},
    END,
};

static const struct setting H100_FIXED[] = {
    {K_pci_device_id, 0x233010DE},
    {K_pci_subsystem_id, 0x16C110DE},
    {K_memory_bus_width_bits, 5120},
    {K_memory_total_mib, 81559},
    {K_memory_reserved_mib, 479},
    {K_bar1_total_mib, 131072},
    {K_clock_max_memory_mhz, 2619},
    {K_remap_banks_max, 2560},
    END,
};

static const struct setting H100_IDLE[] = {
    {K_bar1_used_mib, 1},          {K_power_usage_mw, 69850},   {K_power_instant_mw, 69620},
    {K_power_memory_mw, 43190},    {K_temperature_gpu_c, 41},   {K_temperature_memory_c, 48},
    {K_temperature_margin_c, 46},  {K_clock_graphics_mhz, 345}, {K_clock_sm_mhz, 345},
    {K_clock_memory_mhz, 2619},    {K_clock_video_mhz, 765},    {K_clocks_event_reasons, 1},
    {K_pcie_tx_kibps, 352},        {K_pcie_rx_kibps, 329},      END,
};

static const struct setting H100_LOADED[] = {
    {K_utilization_gpu_pct, 100},  {K_utilization_memory_pct, 11}, {K_memory_used_mib, 19818},
    {K_bar1_used_mib, 19819},      {K_power_usage_mw, 629450},     {K_power_instant_mw, 588390},
    {K_power_memory_mw, 85830},    {K_temperature_gpu_c, 59},      {K_temperature_memory_c, 55},
    {K_temperature_margin_c, 26},  {K_clock_graphics_mhz, 1980},   {K_clock_sm_mhz, 1980},
    {K_clock_memory_mhz, 2619},    {K_clock_video_mhz, 1545},      {K_pcie_tx_kibps, 3092},
    {K_pcie_rx_kibps, 6346},       {K_compute_processes, 3},       END,
};

static const struct setting H200_FIXED[] = {
    {K_pci_device_id, 0x233510DE},
    {K_pci_subsystem_id, 0x18BE10DE},
    {K_memory_bus_width_bits, 6144},
    {K_memory_total_mib, 143771},
    {K_memory_reserved_mib, 614},
    {K_bar1_total_mib, 262144},
    {K_clock_max_memory_mhz, 3201},
    {K_remap_banks_max, 3072},
    END,
};

static const struct setting H200_IDLE[] = {
    {K_bar1_used_mib, 1},          {K_power_usage_mw, 77670},   {K_power_instant_mw, 77880},
    {K_power_memory_mw, 46560},    {K_temperature_gpu_c, 28},   {K_temperature_memory_c, 32},
    {K_temperature_margin_c, 59},  {K_clock_graphics_mhz, 345}, {K_clock_sm_mhz, 345},
    {K_clock_memory_mhz, 3201},    {K_clock_video_mhz, 765},    {K_clocks_event_reasons, 1},
    {K_pcie_tx_kibps, 371},        {K_pcie_rx_kibps, 337},      END,
};

static const struct setting H200_LOADED[] = {
    {K_utilization_gpu_pct, 100},  {K_utilization_memory_pct, 7}, {K_memory_used_mib, 32362},
    {K_bar1_used_mib, 32363},      {K_power_usage_mw, 627320},    {K_power_instant_mw, 625240},
    {K_power_memory_mw, 97690},    {K_temperature_gpu_c, 52},     {K_temperature_memory_c, 41},
    {K_temperature_margin_c, 35},  {K_clock_graphics_mhz, 1980},  {K_clock_sm_mhz, 1980},
    {K_clock_memory_mhz, 3201},    {K_clock_video_mhz, 1545},     {K_pcie_tx_kibps, 4217},
    {K_pcie_rx_kibps, 8691},       {K_compute_processes, 3},      END,
};

static const struct setting L40S_FIXED[] = {
    {K_pci_device_id, 0x26B910DE},
    {K_pci_subsystem_id, 0x185110DE},
    {K_architecture, 8},
    {K_compute_capability_major, 8},
    {K_compute_capability_minor, 9},
    {K_cuda_cores, 18176},
    {K_memory_bus_width_bits, 384},
    {K_persistence_mode, 0},
    {K_memory_total_mib, 46068},
    {K_memory_reserved_mib, 609},
    {K_bar1_total_mib, 65536},
    {K_power_limit_mw, 350000},
    {K_power_default_limit_mw, 350000},
    {K_power_min_limit_mw, 100000},
    {K_power_max_limit_mw, 350000},
    {K_tlimit_shutdown_c, -5},
    {K_tlimit_slowdown_c, -2},
    {K_tlimit_gpu_max_c, 0},
    {K_clock_max_graphics_mhz, 2520},
    {K_clock_max_sm_mhz, 2520},
    {K_clock_max_memory_mhz, 9001},
    {K_clock_max_video_mhz, 1965},
    {K_remap_banks_max, 192},
    {K_pcie_gen, 4},
    {K_pcie_gen_max, 4},
    END,
};

/* The capture's "idle" query was taken while the card was still coming down from work (100 %,
 * 183 W); its last dmon row (37 W, 54 C, 210 and 405 MHz) is what is called idle here. */
static const struct setting L40S_IDLE[] = {
    {K_power_usage_mw, 37000},     {K_power_instant_mw, 37000}, {K_temperature_gpu_c, 54},
    {K_temperature_margin_c, 34},  {K_clock_graphics_mhz, 210}, {K_clock_sm_mhz, 210},
    {K_clock_memory_mhz, 405},     {K_clock_video_mhz, 1965},   {K_clocks_event_reasons, 1},
    {K_pcie_tx_kibps, 585},        {K_pcie_rx_kibps, 244},      END,
};

static const struct setting L40S_LOADED[] = {
    {K_utilization_gpu_pct, 9},    {K_utilization_memory_pct, 2}, {K_utilization_encoder_pct, 59},
    {K_memory_used_mib, 1235},     {K_power_usage_mw, 110240},    {K_power_instant_mw, 110010},
    {K_temperature_gpu_c, 54},     {K_temperature_margin_c, 34},  {K_clock_graphics_mhz, 2520},
    {K_clock_sm_mhz, 2520},        {K_clock_memory_mhz, 9001},    {K_clock_video_mhz, 1965},
    {K_pcie_tx_kibps, 585},        {K_pcie_rx_kibps, 244},        {K_compute_processes, 2},
    END,
};

static const struct setting MIG_ON[] = {
    {K_pci_device_id, 0x233010DE},
    {K_pci_subsystem_id, 0x16C110DE},
    {K_memory_bus_width_bits, 5120},
    {K_memory_total_mib, 81559},
    {K_memory_reserved_mib, 479},
    {K_bar1_total_mib, 131072},
    {K_bar1_used_mib, 81081},
    {K_clock_max_memory_mhz, 2619},
    {K_remap_banks_max, 2560},
    {K_mig_mode, 1},
    END,
};

static const struct setting MIG_IDLE[] = {
    {K_memory_used_mib, 59},       {K_power_usage_mw, 71270},   {K_power_instant_mw, 72630},
    {K_power_memory_mw, 44000},    {K_temperature_gpu_c, 42},   {K_temperature_memory_c, 48},
    {K_temperature_margin_c, 45},  {K_clock_graphics_mhz, 345}, {K_clock_sm_mhz, 345},
    {K_clock_memory_mhz, 2619},    {K_clock_video_mhz, 765},    {K_clocks_event_reasons, 1},
    {K_pcie_tx_kibps, 359},        {K_pcie_rx_kibps, 329},      END,
};

/* Utilisation is what MIG hides; it is set for the performance monitoring, which goes on. */
static const struct setting MIG_LOADED[] = {
    {K_utilization_gpu_pct, 100},  {K_memory_used_mib, 11125},    {K_power_usage_mw, 432210},
    {K_power_instant_mw, 444720},  {K_power_memory_mw, 93980},    {K_temperature_gpu_c, 53},
    {K_temperature_memory_c, 58},  {K_temperature_margin_c, 24},  {K_clock_graphics_mhz, 1980},
    {K_clock_sm_mhz, 1980},        {K_clock_memory_mhz, 2619},    {K_clock_video_mhz, 1545},
    {K_pcie_tx_kibps, 9139},       {K_pcie_rx_kibps, 19191},      {K_compute_processes, 3},
    END,
};

static const struct setting B200_FIXED[] = {
    {K_pci_device_id, 0x290110DE},
    {K_pci_subsystem_id, 0x199910DE},
    {K_architecture, 10},
    {K_compute_capability_major, 10},
    {K_compute_capability_minor, 0},
    {K_cuda_cores, 18944},
    {K_memory_bus_width_bits, 8192},
    {K_memory_total_mib, 183359},
    {K_memory_reserved_mib, 684},
    {K_bar1_total_mib, 262144},
    {K_power_limit_mw, 1000000},
    {K_power_default_limit_mw, 1000000},
    {K_power_max_limit_mw, 1000000},
    {K_clock_max_graphics_mhz, 1965},
    {K_clock_max_sm_mhz, 1965},
    {K_clock_max_memory_mhz, 3996},
    {K_remap_banks_max, 4096},
    {K_power_smoothing_lifetime_pct, 100},
    {K_nvlink_speed_mbps, 53125},
    {K_nvlink_version, 7},
    {K_nvlink_replay_errors, N_A},
    {K_nvlink_recovery_errors, N_A},
    {K_nvlink_crc_errors, N_A},
    {K_nvlink5_malformed_packets, 0},
    {K_nvlink5_buffer_overruns, 0},
    {K_nvlink5_receive_errors, 0},
    {K_nvlink5_receive_remote_errors, 0},
    {K_nvlink5_receive_general_errors, 0},
    {K_nvlink5_integrity_errors, 0},
    {K_nvlink5_discards, 0},
    {K_nvlink5_recoveries_successful, 0},
    {K_nvlink5_recoveries_failed, 0},
    {K_nvlink5_recoveries, 0},
    {K_nvlink5_raw_ber_lane0, 0},
    {K_nvlink5_raw_ber_lane1, 0},
    {K_nvlink5_raw_ber, 0},
    {K_nvlink5_effective_errors, 0},
    {K_nvlink5_effective_ber, 0xFFF},
    {K_nvlink5_symbol_errors, 0},
    {K_nvlink5_symbol_ber, 0xFFF},
    {K_fabric_clique_id, 32766},
    {K_fabric_health_mask, 0x555},
    {K_fabric_health_summary, 1},
    {K_platform_slot_number, 1},
    END,
};

static const struct setting B200_IDLE[] = {
    {K_power_usage_mw, 180000},    {K_power_instant_mw, 181000}, {K_power_memory_mw, 60000},
    {K_temperature_gpu_c, 30},     {K_temperature_memory_c, 33}, {K_temperature_margin_c, 57},
    {K_clock_graphics_mhz, 120},   {K_clock_sm_mhz, 120},        {K_clock_memory_mhz, 3996},
    {K_clock_video_mhz, 600},      {K_clocks_event_reasons, 1},  {K_bar1_used_mib, 1},
    END,
};

static const struct setting B200_LOADED[] = {
    {K_utilization_gpu_pct, 100},  {K_utilization_memory_pct, 12}, {K_memory_used_mib, 40000},
    {K_power_usage_mw, 910000},    {K_power_instant_mw, 925000},   {K_power_memory_mw, 150000},
    {K_temperature_gpu_c, 58},     {K_temperature_memory_c, 62},   {K_temperature_margin_c, 29},
    {K_clock_graphics_mhz, 1965},  {K_clock_sm_mhz, 1965},         {K_clock_memory_mhz, 3996},
    {K_clock_video_mhz, 1500},     {K_bar1_used_mib, 40001},       {K_compute_processes, 3},
    {K_pcie_tx_kibps, 4000},       {K_pcie_rx_kibps, 8000},        {K_nvlink_tx_mibps, 120000},
    {K_nvlink_rx_mibps, 118000},   END,
};

/* What a model says when nothing is known of it: the defaults of keys.def, and no texts. */
static const struct setting NOTHING[] = {END};

static const struct profile PROFILES[] = {
    {"h100",
     {[T_name] = "NVIDIA H100 80GB HBM3",
      [T_board_part_number] = "692-2G520-0200-000",
      [T_vbios_version] = "96.00.A5.00.01",
      [T_inforom_image_version] = "G520.0200.00.05",
      [T_inforom_oem_version] = "2.1",
      [T_inforom_ecc_version] = "7.16"},
     HOPPER_COMMON,
     H100_FIXED,
     {H100_IDLE, H100_LOADED},
     {NULL, NULL}},
    {"h100-mig",
     {[T_name] = "NVIDIA H100 80GB HBM3",
      [T_board_part_number] = "692-2G520-0200-000",
      [T_vbios_version] = "96.00.A5.00.01",
      [T_inforom_image_version] = "G520.0200.00.05",
      [T_inforom_oem_version] = "2.1",
      [T_inforom_ecc_version] = "7.16"},
     HOPPER_COMMON,
     MIG_ON,
     {MIG_IDLE, MIG_LOADED},
     {"2:40448:60:26 3:20096:32:17 9:9984:16:9 10:9984:16:9",
      "2:40448:60:11091 3:20096:32:17 9:9984:16:9 10:9984:16:9"}},
    {"h200",
     {[T_name] = "NVIDIA H200",
      [T_board_part_number] = "695-2G520-0280-001",
      [T_vbios_version] = "96.00.A5.00.03",
      [T_inforom_image_version] = "G520.0280.02.02",
      [T_inforom_oem_version] = "2.1",
      [T_inforom_ecc_version] = "7.16"},
     HOPPER_COMMON,
     H200_FIXED,
     {H200_IDLE, H200_LOADED},
     {NULL, NULL}},
    {"l40s",
     {[T_name] = "NVIDIA L40S",
      [T_board_part_number] = "900-2G133-0080-000",
      [T_vbios_version] = "95.02.66.00.02",
      [T_inforom_image_version] = "G133.0242.00.03",
      [T_inforom_oem_version] = "2.1",
      [T_inforom_ecc_version] = "6.16"},
     NULL,
     L40S_FIXED,
     {L40S_IDLE, L40S_LOADED},
     {NULL, NULL}},
    {"bare", {NULL}, NULL, NOTHING, {NOTHING, NOTHING}, {NULL, NULL}},
    {"b200",
     {[T_name] = "NVIDIA B200",
      [T_board_part_number] = "692-2G999-0000-000",
      [T_vbios_version] = "97.00.00.00.01",
      [T_inforom_image_version] = "G999.0000.00.00",
      [T_inforom_oem_version] = "2.1",
      [T_inforom_ecc_version] = "7.16",
      [T_chassis_serial] = "1820000000001",
      [T_fabric_cluster_uuid] = "b2000000-0000-4000-8000-000000000001"},
     HOPPER_COMMON,
     B200_FIXED,
     {B200_IDLE, B200_LOADED},
     {NULL, NULL}},
};

enum { PROFILE_COUNT = sizeof PROFILES / sizeof *PROFILES };

int profile_find(const char *name)
{
    for (int i = 0; i < PROFILE_COUNT; i++)
        if (strcmp(PROFILES[i].name, name) == 0)
            return i;
    return -1;
}

static void apply(struct gpu *gpu, const struct setting *setting)
{
    for (; setting->key != KEY_COUNT; setting++)
        gpu->value[setting->key] = setting->value;
}

void profile_apply(struct gpu *gpu, int number, int load)
{
    const struct profile *profile = &PROFILES[number];

    for (int i = 0; i < TEXT_COUNT; i++)
        if (profile->text[i])
            strncpy(gpu->text[i], profile->text[i], TEXT_MAX - 1);
    if (profile->mig_instances[load])
        strncpy(gpu->text[T_mig_instances], profile->mig_instances[load], TEXT_MAX - 1);
    if (profile->common)
        apply(gpu, profile->common);
    apply(gpu, profile->fixed);
    apply(gpu, profile->state[load]);
}
