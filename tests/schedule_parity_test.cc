// Learning rates against torch.optim.lr_scheduler at every step; Debian's python3-torch is the
// reference.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "python.h"
#include "train/schedule.h"

namespace skipway {
namespace {

constexpr int kNoTorch = 77;         // exit status of schedule_parity.py
constexpr double kTolerance = 1e-9;  // torch multiplies step by step, so its errors add up

const std::vector<double> kAccuracies{0.30,  0.45, 0.44,     0.4500001, 0.43, 0.50, 0.50,
                                      0.50,  0.50, 0.50,     0.50,      0.50, 0.60, 0.55,
                                      0.601, 0.58, 0.600001, 0.601,     0.6,  0.6,  0.6};

void expect_close(const std::string& name, size_t step, double ours, double torch) {
  EXPECT_NEAR(ours, torch, kTolerance * std::abs(torch) + 1e-15) << name << " at step " << step;
}

// `steps_per_epoch` steps make an epoch of ours; torch's schedulers count steps.
void expect_same(const nlohmann::json& torch, const std::string& name,
                 const ScheduleOptions& options, int64_t steps_per_epoch, int64_t total_steps) {
  const std::vector<double> rates = torch.at(name);
  ASSERT_FALSE(rates.empty());
  const auto epoch = static_cast<double>(steps_per_epoch);
  for (size_t step = 0; step < rates.size(); ++step)
    expect_close(name, step,
                 learning_rate(options, static_cast<double>(step) / epoch,
                               static_cast<double>(total_steps) / epoch, 1 / epoch),
                 rates[step]);
}

// torch's scheduler steps once an epoch; ours is asked at the start, the middle and the end of it.
void expect_same_per_epoch(const nlohmann::json& torch, const std::string& name,
                           ScheduleOptions options) {
  const std::vector<double> rates = torch.at(name);
  ASSERT_FALSE(rates.empty());
  options.per_epoch = true;
  for (size_t epoch = 0; epoch < rates.size(); ++epoch)
    for (double part : {0.0, 0.5, 0.999})
      expect_close(name, epoch,
                   learning_rate(options, static_cast<double>(epoch) + part,
                                 static_cast<double>(rates.size()), 0.001),
                   rates[epoch]);
}

TEST(ScheduleParity, RatesAreThoseOfTorchAtEveryStep) {
  const PythonResult run = run_python(
      {SKIPWAY_SOURCE_DIR "/tests/schedule_parity.py", nlohmann::json(kAccuracies).dump()});
  if (run.exit_code == 127) GTEST_SKIP() << "needs /usr/bin/python3 (Debian package python3)";
  if (run.exit_code == kNoTorch) GTEST_SKIP() << "needs Debian package python3-torch";
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const nlohmann::json torch = nlohmann::json::parse(run.output);

  expect_same(
      torch, "linear",
      {.kind = ScheduleKind::kLinear, .lr = 0.15, .warmup_fraction = 0.2, .final_fraction = 0.01},
      8, 100);
  expect_same_per_epoch(torch, "cosine_per_epoch",
                        {.kind = ScheduleKind::kCosine, .lr = 0.1, .t_max_epochs = 200});
  expect_same(torch, "cosine_beyond_t_max",
              {.kind = ScheduleKind::kCosine, .lr = 0.1, .final_fraction = 0.01, .t_max_epochs = 4},
              5, 70);
  expect_same(
      torch, "cosine_after_warmup",
      {.kind = ScheduleKind::kCosine, .lr = 0.2, .warmup_fraction = 0.25, .final_fraction = 0.05},
      16, 120);
  expect_same_per_epoch(torch, "step", {.kind = ScheduleKind::kStep, .lr = 0.1, .step_epochs = 30});
  expect_same_per_epoch(
      torch, "multistep",
      {.kind = ScheduleKind::kMultistep, .lr = 0.1, .milestones = {60, 120, 160}, .gamma = 0.2});
  expect_same(torch, "onecycle", {.kind = ScheduleKind::kOneCycle, .lr = 0.4}, 10, 97);
  expect_same_per_epoch(torch, "onecycle", {.kind = ScheduleKind::kOneCycle, .lr = 0.4});
  expect_same(torch, "onecycle_early_peak",
              {.kind = ScheduleKind::kOneCycle, .lr = 0.4, .warmup_fraction = 0.125}, 16, 64);

  const std::vector<double> plateau = torch.at("plateau");
  ASSERT_EQ(plateau.size(), kAccuracies.size());
  for (size_t i = 0; i < plateau.size(); ++i)
    expect_close("plateau", i,
                 plateau_learning_rate(
                     {.kind = ScheduleKind::kPlateau, .lr = 0.1, .patience = 2},
                     {kAccuracies.begin(), kAccuracies.begin() + static_cast<int64_t>(i) + 1}),
                 plateau[i]);
  EXPECT_LT(plateau.back(), 0.0011);  // the series decays twice
}

}  // namespace
}  // namespace skipway
