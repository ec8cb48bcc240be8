// The rules stand in one table at the end, in the order in which they are asked and shown.
#include "report/diagnose.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/files.h"
#include "data/dataset.h"
#include "report/history.h"
#include "train/schedule.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;
using Evidence = std::optional<std::string>;

// What the rules look at.
struct Facts {
  const RunRecord& record;
  History history;
  std::optional<double> accuracy;
  double passes = 0;  // epochs done

  const Config& config() const { return record.config; }
};

// Of red, green and blue; none where they are not there.
std::optional<std::array<double, 3>> channels(const Json& line, std::string_view key) {
  const Json* found = value_at(line, key);
  if (found == nullptr || !found->is_array() || found->size() != 3) return std::nullopt;
  std::array<double, 3> values{};
  for (size_t c = 0; c < 3; ++c) {
    if (!(*found)[c].is_number()) return std::nullopt;
    values[c] = (*found)[c].get<double>();
  }
  return values;
}

Facts facts_of(const RunRecord& record) {
  Facts facts{.record = record, .history = history_of(record.metrics), .accuracy = {}};
  for (const Json& line : facts.history.epochs) {
    facts.passes = number_at(line, "epoch").value_or(facts.passes);
    if (const auto accuracy = number_at(line, "test_accuracy")) facts.accuracy = accuracy;
  }
  if (const auto& end = facts.history.end) {
    facts.passes = number_at(*end, "result/epochs").value_or(facts.passes);
    if (const auto last = number_at(*end, "result/accuracy/last")) facts.accuracy = last;
  }
  return facts;
}

// ---- the rules: the evidence, or nothing ----

// The article's range is 0.01 to 0.2, its rate 0.1.
constexpr double kUsualRate = 0.1, kLowestShare = 0.1, kHighestShare = 2;
constexpr double kFewPasses = 15;       // epochs
constexpr double kFewSteps = 20;        // in which no rate can fall to nearly nothing
constexpr int64_t kSmallStemSide = 64;  // pixels; up to it the stem of CIFAR is right
constexpr int64_t kFewImages = 16;      // too few for BatchNorm's statistics

Evidence diverged(const Facts& f) {
  if (f.history.rollbacks.empty() && !f.history.gave_up) return std::nullopt;
  std::string evidence = fmt::format("metrics.jsonl has {} rollbacks", f.history.rollbacks.size());
  if (!f.history.rollbacks.empty()) {
    const Json& last = f.history.rollbacks.back();
    const auto loss = number_at(last, "loss");
    const std::string found = text_at(last, "found");
    evidence += fmt::format("; the last at step {:.0f}, at rate {:.4g}: {}",
                            number_at(last, "step").value_or(0), number_at(last, "lr").value_or(0),
                            !found.empty() ? found
                            : loss         ? fmt::format("loss {:.4g}", *loss)
                                           : "loss not finite");
  }
  if (f.history.gave_up) {
    const auto step = number_at(*f.history.gave_up, "step");
    evidence += "; the run gave up" + (step ? fmt::format(" at step {:.0f}", *step) : "");
    if (f.record.trouble) evidence += "; the batch that ended it is in the folder trouble";
  }
  return evidence;
}

Evidence stopped(const Facts& f) {
  if (f.history.end || f.history.gave_up) return std::nullopt;
  return fmt::format("metrics.jsonl has no line of the run's end; the last epoch in it is {:.2f}",
                     f.passes);
}

Evidence wrong_mean_and_std(const Facts& f) {
  if (!f.config().weights.empty()) return std::nullopt;  // which mean and std belong to
  const auto mean = channels(f.history.begin, "mean"), std = channels(f.history.begin, "std"),
             own_mean = channels(f.history.begin, "data_mean"),
             own_std = channels(f.history.begin, "data_std");
  if (!mean || !std || !own_mean || !own_std ||
      normalisation_fits({.mean = *mean, .std = *std}, {.mean = *own_mean, .std = *own_std}))
    return std::nullopt;
  return fmt::format(
      "mean {:.3f} and std {:.3f} were taken; the training images have {:.3f} and {:.3f}",
      fmt::join(*mean, ","), fmt::join(*std, ","), fmt::join(*own_mean, ","),
      fmt::join(*own_std, ","));
}

// A recipe's own rate goes with the rest of the recipe, that of `finetune` with weights.
double usual_rate(const Config& config) {
  const double of_recipe = recipe_config(config.recipe).lr;
  return of_recipe > 0            ? of_recipe
         : config.weights.empty() ? kUsualRate
                                  : recipe_config("finetune").lr;
}

double peak_rate(const Facts& f) {
  const auto recorded = number_at(f.history.begin, "peak_lr");
  return recorded ? *recorded : schedule_options(f.config(), f.passes).lr;
}

Evidence rate(const Facts& f) {
  const double lr = peak_rate(f), usual = usual_rate(f.config());
  if (lr >= kLowestShare * usual && lr <= kHighestShare * usual) return std::nullopt;
  return fmt::format("the peak rate was {:g}, outside of {:g} to {:g}", lr, kLowestShare * usual,
                     kHighestShare * usual);
}

Evidence no_augmentation(const Facts& f) {
  if (f.config().augment != "none" && !f.config().augment.empty()) return std::nullopt;
  return std::string("config.toml says augment = \"none\"");
}

Evidence never_anneals(const Facts& f) {
  if (!f.history.end || f.history.epochs.empty()) return std::nullopt;
  const Json& last = f.history.epochs.back();
  if (number_at(last, "step").value_or(0) < kFewSteps) return std::nullopt;
  // What rollbacks have taken from it is not the schedule's.
  const double of_rollbacks = f.history.rollbacks.empty()
                                  ? 1
                                  : number_at(f.history.rollbacks.back(), "lr_factor").value_or(1);
  const double lr = number_at(last, "lr").value_or(0), peak = of_rollbacks * peak_rate(f);
  if (lr <= kStillHigh * peak) return std::nullopt;
  return fmt::format(
      "the {} schedule left the rate at {:.3g} of a peak of {:g} when the run ended "
      "after {:.1f} epochs",
      f.config().schedule, lr, peak, f.passes);
}

Evidence few_passes(const Facts& f) {
  if (!f.config().weights.empty()) return std::nullopt;  // which need few
  if (!f.history.end || f.passes >= kFewPasses) return std::nullopt;
  return fmt::format("{:.1f} epochs; 85 % on CIFAR-10 takes a plain recipe some {:g}", f.passes,
                     kFewPasses);
}

Evidence wrong_stem(const Facts& f) {
  const std::string stem = text_at(f.history.begin, "stem");
  const auto side = number_at(f.history.begin, "image_size");
  if (!side || stem.empty() || (stem == "cifar") == (*side <= kSmallStemSide)) return std::nullopt;
  return fmt::format("the {} stem for images of {:.0f} pixels", stem, *side);
}

Evidence wrong_device(const Facts& f) {
  const auto driver = f.record.env.find("nvidia_driver");
  if (driver == f.record.env.end() || !driver->is_boolean() || !driver->get<bool>() ||
      text_at(f.history.begin, "device") != "cpu")
    return std::nullopt;
  return std::string("env.json has an NVIDIA driver, the run was on the CPU");
}

Evidence small_micro_batch(const Facts& f) {
  static constexpr std::string_view kLine = "out of memory: training goes on with ";
  const size_t at = f.record.log.rfind(kLine);
  if (at == std::string::npos) return std::nullopt;
  int64_t images = 0;
  const char* const begin = f.record.log.data() + at + kLine.size();
  std::from_chars(begin, f.record.log.data() + f.record.log.size(), images);
  if (images >= kFewImages) return std::nullopt;
  return fmt::format("log.txt: memory sufficed for {} images at once, which is what BatchNorm saw",
                     images);
}

struct Check {
  const char* id;
  bool only_when_low;  // asked when the accuracy is low; no fault otherwise
  Evidence (*evidence)(const Facts&);
  const char* symptom;
  const char* fix;                         // {run}: the run's folder; {lr}: the usual rate
  const char* fix_with_weights = nullptr;  // in its place where the run began with weights
};

constexpr std::array<Check, 10> kChecks{{
    {"diverged", false, diverged,
     "loss, gradient or weights were not finite, or the loss far above guessing",
     "--clip-grad-norm 1, see with `skipway data check` whether mean and std fit, a lower --lr"},
    {"stopped", false, stopped, "the run has not come to its end: stopped, or still going",
     "skipway resume {run}"},
    {"mean_and_std", false, wrong_mean_and_std, "the images are scaled for other data",
     "--mean auto --std auto"},
    {"rate", true, rate, "the rate is out of the usual range",
     "--lr {lr}, or what `skipway lr-find` shows"},
    {"augmentation", true, no_augmentation, "every epoch showed the images unchanged",
     "--augment flip,crop; crop alone where a mirror image means something else"},
    {"never_anneals", false, never_anneals, "the rate is still high at the end",
     "--schedule cosine --t-max 0 --final-lr 0.01, which ends when the run does"},
    {"few_passes", true, few_passes, "the run is short",
     "more --minutes or --epochs; `skipway plan` says what they buy here"},
    {"stem", false, wrong_stem, "the first layers are made for other images", "--stem auto",
     "--image-size as the weights had it: up to 64 with the cifar stem, more with the other"},
    {"device", false, wrong_device, "the GPU was not used",
     "SKIPWAY_CUDA=1 ./skipway setup, then --device cuda"},
    {"micro_batch", true, small_micro_batch, "BatchNorm saw few images at once",
     "a smaller --model or --image-size; close what else needs memory"},
}};

std::string filled_in(std::string fix, const RunRecord& record) {
  const auto fill = [&](std::string_view place, const std::string& text) {
    if (const size_t at = fix.find(place); at != std::string::npos)
      fix.replace(at, place.size(), text);
  };
  fill("{run}", shell_quoted(record.run));
  fill("{lr}", fmt::format("{:.3g}", usual_rate(record.config)));
  return fix;
}

}  // namespace

Diagnosis diagnose(const RunRecord& record) {
  const Facts facts = facts_of(record);
  Diagnosis diagnosis{.accuracy = facts.accuracy, .findings = {}};
  for (const Check& check : kChecks) {
    if (check.only_when_low && !diagnosis.low()) continue;
    const char* fix = !record.config.weights.empty() && check.fix_with_weights != nullptr
                          ? check.fix_with_weights
                          : check.fix;
    if (const Evidence evidence = check.evidence(facts))
      diagnosis.findings.push_back({check.id, check.symptom, *evidence, filled_in(fix, record)});
  }
  return diagnosis;
}

nlohmann::ordered_json to_json(const RunRecord& record, const Diagnosis& diagnosis) {
  Json findings = Json::array();
  for (const Cause& f : diagnosis.findings)
    findings.push_back(
        {{"id", f.id}, {"symptom", f.symptom}, {"evidence", f.evidence}, {"fix", f.fix}});
  return {{"schema", "skipway.diagnose/1"},
          {"ok", true},
          {"run", record.run},
          {"accuracy", diagnosis.accuracy ? Json(*diagnosis.accuracy) : Json(nullptr)},
          {"sound", diagnosis.sound()},
          {"findings", findings}};
}

}  // namespace skipway
