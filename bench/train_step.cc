// One row of the benchmarks of training steps and of inference: the model, loss, backward pass and
// optimizer that `train` uses, or the forward pass of `predict`, on random images. Prints one JSON
// object: seconds of each timed step, the pages that these steps took from the system, the peak
// memory of the process, and the kernels with what choosing them measured. Not the drivers; see
// bench/train_step, bench/layers and bench/inference.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/process.h"
#include "data/batches.h"
#include "kernels/instruction_set.h"
#include "model/device.h"
#include "model/model.h"
#include "model/threads.h"
#include "train/optimizer.h"

namespace {

int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace skipway;
  int64_t batch_size = 128, side = 32, threads = 2, warmup = 2, steps = 8;
  std::string precision_word = "bf16", kernel = "auto", instruction_set;
  ModelSpec spec;
  AugmentOptions augment;
  augment.flip = Flip::kRandom;
  augment.crop_pad = 4;
  bool inference = false, muon = false;
  CLI::App app("Times training steps, or forward passes");
  app.add_flag("--inference", inference);
  app.add_option("--batch", batch_size);
  app.add_option("--precision", precision_word);
  app.add_option("--model", spec.name);
  app.add_option("--attention", spec.attention);
  app.add_option("--kernel", kernel);
  app.add_option("--instruction-set", instruction_set)
      ->check(CLI::IsMember(kernels::instruction_sets()));
  app.add_option("--side", side);
  app.add_flag("--muon", muon);
  app.add_option("--threads", threads);
  app.add_option("--warmup", warmup);
  app.add_option("--steps", steps);
  CLI11_PARSE(app, argc, argv);

  if (!instruction_set.empty()) kernels::use_instruction_set(instruction_set);
  prepare_process(threads);
  const at::ScalarType precision = resolve_precision(precision_word, at::kCPU, kernel);
  const std::unique_ptr<Model> model = make_model(spec, 0);
  model->kernels() = KernelChoice(kernel);
  Optimizer optimizer(model->parameters(), {.nesterov = true, .muon_lr = muon ? 1.0 : 0});
  const kernels::Type muon_products =
      muon && precision == at::kBFloat16 ? model->kernels().muon_products() : kernels::Type::kFp32;
  // Augmentation is part of our step, though not of PyTorch's row.
  Split split;
  split.images = at::randint(0, 256, {batch_size * (warmup + steps), 32, 32, 3}, at::kByte);
  split.labels = at::randint(0, 10, {batch_size * (warmup + steps)}, at::kLong);
  Batches batches(split, batch_size, augment, {{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}}, 0, precision);

  nlohmann::json times_s = nlohmann::json::array();
  int64_t faults_before = 0;
  for (int64_t step = 0; step < warmup + steps; ++step) {
    if (step == warmup) faults_before = page_faults();
    const at::Tensor ready = inference ? batches.input(batches.at_step(step, side)) : at::Tensor();
    const Stopwatch watch;
    if (inference) {
      const at::NoGradGuard no_grad;
      const PrecisionScope scope(at::kCPU, precision);
      model->forward(ready, false);
    } else {
      const Batch batch = batches.at_step(step, side);
      at::Tensor loss;
      {
        const PrecisionScope scope(at::kCPU, precision);
        loss = at::cross_entropy_loss(model->forward(batches.input(batch), true), batch.labels, {},
                                      at::Reduction::Mean, -100, 0.1);
      }
      loss.backward();
      loss.item<double>();
      optimizer.step(0.1, {}, muon_products);
    }
    if (step >= warmup) times_s.push_back(watch.seconds());
  }
  std::cout << nlohmann::json{{"step_s", times_s},
                              {"page_faults", page_faults() - faults_before},
                              {"peak_rss_bytes", peak_rss_bytes()},
                              {"kernel", model->kernels().in_use()},
                              {"kernels", model->kernels().chosen()},
                              {"measured_s", model->kernels().measured_s()}}
            << "\n";
}
