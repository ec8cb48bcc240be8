#include "kernels/instruction_set.h"

#include <cpuid.h>
#include <hwy/targets.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace skipway::kernels {
namespace {

// What the machine can run, whatever use_instruction_set() said. Asking the processor takes some
// thirty microseconds in a virtual machine.
int64_t targets_of_machine() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

bool has_dot() { return __builtin_cpu_supports("avx512bf16") && (targets_of_machine() & HWY_AVX3); }

// Whether the processor has tile registers with bf16, and Linux lets this process use them: it has
// to be asked, because a thread that uses them takes 8 KB more to switch.
bool ask_for_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!has_dot() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // <asm/prctl.h>, since Linux 5.16
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Set {
  const char* name;
  int64_t target;
  bool dot, tiles;  // vdpbf16ps, tdpbf16ps
};

// That the machine can run, best first.
const std::vector<Set>& sets() {
  static const std::vector<Set> sets = [] {
    std::vector<Set> all = {{"amx_bf16", HWY_AVX3, true, true},
                            {"avx512_bf16", HWY_AVX3, true, false},
                            {"avx512", HWY_AVX3, false, false},
                            {"avx2", HWY_AVX2, false, false},
                            {"scalar", HWY_EMU128, false, false}};
    const bool tiles = ask_for_tiles();
    std::erase_if(all, [tiles](const Set& set) {
      const bool runs = (targets_of_machine() & set.target) != 0 || set.target == HWY_EMU128;
      return !runs || (set.dot && !has_dot()) || (set.tiles && !tiles);
    });
    return all;
  }();
  return sets;
}

std::atomic<size_t> in_use{0};  // of sets()
const Set& set_in_use() { return sets()[in_use]; }

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Set& set : sets()) names.emplace_back(set.name);
  return names;
}

bool dot_in_use() { return set_in_use().dot; }
bool tiles_in_use() { return set_in_use().tiles; }
std::string instruction_set_in_use() { return set_in_use().name; }

bool use_instruction_set(const std::string& name) {
  const auto found =
      std::find_if(sets().begin(), sets().end(), [&](const Set& set) { return set.name == name; });
  if (found == sets().end()) return false;
  in_use = static_cast<size_t>(found - sets().begin());
  hwy::SetSupportedTargetsForTest(found->target);
  // The tables choose anew at the next call.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

}  // namespace skipway::kernels
