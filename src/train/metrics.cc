#include "train/metrics.h"

#include <cmath>

#include "base/files.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;

// Accuracies and times are shown with the digits they have.
double rounded(double value, double digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(value * scale) / scale;
}

Json new_line(const char* event) { return {{"schema", "skipway.metrics/1"}, {"event", event}}; }

}  // namespace

Json to_json(const TrainResult& r) {
  const auto interval = interval95(r.last.accuracy, r.last.n);
  Json accuracy = {{"last", rounded(r.last.accuracy, 6)}};
  accuracy["last_tta"] = r.last.views > 1 ? Json(rounded(r.last.accuracy_tta, 6)) : nullptr;
  accuracy["interval95"] = {rounded(interval[0], 4), rounded(interval[1], 4)};
  accuracy["n"] = r.last.n;
  accuracy["best"] = rounded(r.best, 6);
  accuracy["best_epoch"] = rounded(r.best_epoch, 3);
  accuracy["split"] = r.split;
  return {{"schema", "skipway.train/1"},
          {"ok", true},
          {"run", r.run},
          {"model", r.model},
          {"dataset", r.dataset},
          {"recipe", r.recipe},
          {"epochs", rounded(r.epochs, 4)},
          {"images", r.images},
          {"wall_s", rounded(r.wall_s, 2)},
          {"train_wall_s", rounded(r.train_wall_s, 2)},
          {"images_per_s", rounded(r.images_per_s, 1)},
          {"accuracy", accuracy},
          {"device", r.device},
          {"precision", r.precision},
          {"kernel", r.kernel},
          {"kernels", r.kernels},
          {"threads", r.threads},
          {"peak_rss_bytes", r.peak_rss_bytes},
          {"weights_sha256", r.weights_sha256}};
}

Json to_json(const BadStep& bad) {
  return {{"step", bad.step},
          {"epoch", rounded(bad.epoch, 4)},
          {"loss", bad.loss},
          {"grad_norm", bad.grad_norm},
          {"lr", bad.lr},
          {"lr_factor", bad.lr_factor},
          {"rollbacks", bad.rollbacks}};
}

Json begin_line(const Config& config, const Learner& learner, const Normalisation& of_data,
                double passes) {
  const ModelSpec& spec = learner.model->spec();
  Json line = new_line("begin");
  line.update({{"model", spec.name},
               {"stem", spec.stem},
               {"image_size", spec.image_size},
               {"classes", spec.num_classes},
               {"train_images", learner.batches.image_count()},
               {"device", learner.device.str()},
               {"mean", spec.normalisation.mean},
               {"std", spec.normalisation.std},
               {"data_mean", of_data.mean},
               {"data_std", of_data.std},
               {"passes", rounded(passes, 4)},
               {"peak_lr", schedule_options(config, passes).lr},
               {"muon_lr", optimizer_options(config, passes).muon_lr},
               {"augment", augment_words(config, passes)},
               {"crop_pad", augment_options(config, passes, spec.image_size).crop_pad},
               {"batch_norm_images", batch_norm_images(config, passes)}});
  return line;
}

Json epoch_line(const EpochReport& report) {
  const StepReport& step = report.step;
  Json line = new_line("epoch");
  line.update({{"epoch", rounded(step.epoch, 4)},
               {"step", step.step},
               {"images", report.images},
               {"loss", rounded(step.loss, 6)},
               {"grad_norm", rounded(step.grad_norm, 6)},
               {"lr", step.lr},
               {"images_per_s", rounded(step.images_per_s, 1)},
               {"train_wall_s", rounded(report.train_wall_s, 2)},
               {"wall_s", rounded(report.wall_s, 2)}});
  if (report.evaluation) {
    line["test_loss"] = rounded(report.evaluation->loss, 6);
    line["test_accuracy"] = rounded(report.evaluation->accuracy, 6);
    if (report.evaluation->views > 1)
      line["test_accuracy_tta"] = rounded(report.evaluation->accuracy_tta, 6);
  }
  return line;
}

Json rollback_line(const BadStep& bad, int64_t to_step, const std::string& found) {
  Json line = new_line("rollback");
  line.update(to_json(bad));
  line["found"] = found;
  line["to_step"] = to_step;
  return line;
}

Json gave_up_line(const BadStep& bad, const char* during) {
  Json line = new_line("gave_up");
  line["during"] = during;
  line.update(to_json(bad));
  return line;
}

Json end_line(const TrainResult& result) {
  Json line = new_line("end");
  line["result"] = to_json(result);
  const std::vector<ClassAccuracy> per_class = accuracy_per_class(result.last);
  for (size_t c = 0; c < result.classes.size(); ++c) {
    auto& accuracy = line["per_class"][result.classes[c]];  // null: no images of the class
    if (per_class[c].n > 0) accuracy = rounded(per_class[c].accuracy, 6);
  }
  line["confusion"] = result.last.confusion;
  line["views"] = result.last.views;
  return line;
}

void forget_metrics_after(const RunFolder& run, int64_t recorded_step) {
  std::string kept;
  for (const Json& line : run.read_metrics(/*is_to_be_mended=*/true)) {
    const std::string event = line.value("event", "");
    if (event == "begin" || event == "rollback" ||
        (event == "epoch" && line.value("step", int64_t{0}) <= recorded_step))
      kept += line.dump() + "\n";
  }
  write_file_atomic(run.metrics_jsonl(), kept);
}

}  // namespace skipway
