// Turns a run's files into one HTML page with inline SVG. No template engine: each section is a
// function that returns its HTML, or nothing when its figures are not there.
#include "report/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "base/files.h"
#include "base/json.h"
#include "report/history.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;

// A matrix of more classes does not fit a page; the commonest mistakes say more then.
constexpr size_t kMaxMatrixClasses = 20;
constexpr size_t kMaxMistakes = 12;

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#1c2126;--dim:#5d6770;--line:#d9dee3;--paper:#fff;--card:#f5f7f9;
--s0:#1f5fa6;--s1:#b4480f;--warn:#fff4d6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--dim:#9aa5af;--line:#343c44;--paper:#14181c;
--card:#1c2227;--s0:#7ab3ef;--s1:#f0a070;--warn:#3b3115}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2rem 1.25rem 4rem;color:var(--ink);background:var(--paper);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.15rem;font-weight:600;margin:0}h2{font-size:1.05rem;margin:2.5rem 0 .75rem}
p{margin:.4rem 0}.dim,caption,figcaption,dt{color:var(--dim)}
.score{font-size:3.4rem;font-weight:650;line-height:1.1;margin:.6rem 0 0;font-variant-numeric:tabular-nums}
.warn{background:var(--warn);border-radius:6px;padding:.7rem 1rem;margin:1rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.9rem 1.25rem;margin:1.5rem 0 0}
dt{font-size:.82rem}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}.wide{grid-column:1/-1}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:1.25rem 1.5rem}
figure{margin:0}figcaption{font-size:.88rem}figcaption b{color:var(--ink);font-weight:600;margin-right:.6rem}
svg{display:block;width:100%;height:auto}svg text{font-size:11px;fill:var(--dim)}
.grid{stroke:var(--line)}.line{fill:none;stroke-width:2;stroke-linejoin:round}
.s0{stroke:var(--s0);color:var(--s0)}.s1{stroke:var(--s1);color:var(--s1);stroke-dasharray:5 3}
.dot0{fill:var(--s0)}.dot1{fill:var(--s1)}
.key{margin-right:.8rem;white-space:nowrap}.key::before{content:"";display:inline-block;width:1.1rem;
margin-right:.35rem;vertical-align:.25em;border-top:2px solid currentColor}.key.s1::before{border-top-style:dashed}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;font-size:.88rem;padding-bottom:.5rem}th{font-weight:500;text-align:left}
.rows td,.rows th{padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
.rows .n{text-align:right;white-space:nowrap}.rows td{overflow-wrap:anywhere}
.bar{width:9rem}.bar i{display:block;height:.55rem;margin-top:.45rem;background:var(--s0);border-radius:2px}
.matrix td{min-width:2.7rem;height:2rem;padding:0 .3rem;text-align:center;border:1px solid var(--paper)}
.matrix td.strong{color:#fff}.matrix th[scope=row]{padding-right:.6rem;text-align:right;white-space:nowrap}
.matrix th[scope=col]{padding:.3rem 0;vertical-align:bottom;text-align:center}
.matrix th[scope=col] span{writing-mode:vertical-rl;transform:rotate(180deg)}
pre{background:var(--card);border-radius:6px;padding:.8rem 1rem;overflow-x:auto;margin:.5rem 0;
font:.84rem/1.45 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.bar i,.matrix td,.warn{-webkit-print-color-adjust:exact;print-color-adjust:exact}
@media print{body{max-width:none;padding:0;font-size:11pt}figure,tr,dl{break-inside:avoid}h2{break-after:avoid}
pre{white-space:pre-wrap}.charts{grid-template-columns:1fr 1fr}}
)";

std::string escaped(std::string_view text) {
  std::string html;
  for (char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      case '\'':
        html += "&#39;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

// 50000 -> "50,000"
std::string grouped(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string result;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-') result += ',';
    result += digits[i];
  }
  return result;
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{:.1f} s", seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string gigabytes(double bytes) { return fmt::format("{:.2f} GB", bytes * 1e-9); }

// ---- curves ----

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // epoch, value
};

Series series_of(const History& history, std::string name, std::string_view key, double scale = 1) {
  Series series{.name = std::move(name), .points = {}};
  for (const Json& line : history.epochs) {
    const auto epoch = number_at(line, "epoch"), value = number_at(line, key);
    if (epoch && value) series.points.emplace_back(*epoch, *value * scale);
  }
  return series;
}

// An axis whose ends and ticks are multiples of 1, 2 or 5 times a power of ten.
struct Axis {
  double low, high, tick;
  int decimals;

  Axis(double from, double to, int ticks) {
    if (to - from <= 1e-9 * std::abs(from)) {  // one value: from zero to it
      from = std::min(from, 0.0), to = std::max(to, 0.0);
      if (from == to) to = 1;
    }
    const double power = std::pow(10, std::floor(std::log10((to - from) / ticks)));
    const double rough = (to - from) / ticks / power;
    tick = power * (rough <= 1 ? 1 : rough <= 2 ? 2 : rough <= 5 ? 5 : 10);
    decimals = std::max(0, static_cast<int>(-std::floor(std::log10(tick) + 1e-9)));
    low = std::floor(from / tick + 1e-9) * tick;
    high = std::ceil(to / tick - 1e-9) * tick;
  }
  int count() const { return static_cast<int>(std::lround((high - low) / tick)); }
  std::string label(int i) const { return fmt::format("{:.{}f}", low + i * tick, decimals); }
  double share(double value) const { return (value - low) / (high - low); }
};

// One figure; up to two series over the epochs. `from_zero`: the axis of values begins at 0.
std::string chart(std::string_view title, const std::vector<Series>& all, bool from_zero,
                  int decimals) {
  std::vector<Series> series;
  std::copy_if(all.begin(), all.end(), std::back_inserter(series),
               [](const Series& s) { return !s.points.empty(); });
  if (series.empty()) return "";

  constexpr double kLeft = 44, kTop = 10, kWidth = 336, kHeight = 150;
  double low = std::numeric_limits<double>::max(), high = -low, last_epoch = 0;
  for (const Series& s : series) {
    for (auto [epoch, value] : s.points) {
      low = std::min(low, value);
      high = std::max(high, value);
      last_epoch = std::max(last_epoch, epoch);
    }
  }
  if (last_epoch <= 0) return "";
  const Axis x(0, last_epoch, 6), y(from_zero ? std::min(low, 0.0) : low, high, 4);
  const auto place_x = [&](double epoch) { return kLeft + kWidth * epoch / last_epoch; };
  const auto place_y = [&](double value) { return kTop + kHeight * (1 - y.share(value)); };

  std::string keys, svg;
  for (int i = 0; i <= y.count(); ++i) {
    const double at = place_y(y.low + i * y.tick);
    svg += fmt::format(R"(<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>)"
                       R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)",
                       kLeft, at, kLeft + kWidth, at, kLeft - 6, at + 4, y.label(i));
  }
  for (int i = 0; i <= x.count() && x.low + i * x.tick <= last_epoch * (1 + 1e-9); ++i)
    svg += fmt::format(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)",
                       place_x(x.low + i * x.tick), kTop + kHeight + 17, x.label(i));
  for (size_t i = 0; i < series.size(); ++i) {
    std::string path, dots;
    for (auto [epoch, value] : series[i].points) {
      path += fmt::format("{:.1f},{:.1f} ", place_x(epoch), place_y(value));
      dots += fmt::format(
          R"(<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>epoch {:.4g}: {:.{}f}</title></circle>)",
          i, place_x(epoch), place_y(value), epoch, value, decimals);
    }
    svg += fmt::format(R"(<polyline class="line s{}" points="{}"/>)", i, path);
    if (series[i].points.size() <= 60) svg += dots;
    keys += fmt::format(R"(<span class="key s{}">{} {:.{}f}</span>)", i, series[i].name,
                        series[i].points.back().second, decimals);
  }
  return fmt::format(
      R"(<figure><figcaption><b>{}</b>{}</figcaption>)"
      R"(<svg viewBox="0 0 400 185" role="img" aria-label="{} over epochs">{}</svg></figure>)"
      "\n",
      title, keys, title, svg);
}

std::string curves(const History& history) {
  if (history.epochs.empty()) return "";
  const std::string figures =
      chart("Loss",
            {series_of(history, "training", "loss"), series_of(history, "held out", "test_loss")},
            false, 3) +
      chart("Accuracy [%]",
            {series_of(history, "plain", "test_accuracy", 100),
             series_of(history, "with TTA", "test_accuracy_tta", 100)},
            false, 2) +
      chart("Learning rate", {series_of(history, "last", "lr")}, true, 5) +
      chart("Images per second", {series_of(history, "last", "images_per_s")}, true, 1);
  return fmt::format(
      "<h2>Over the epochs</h2>\n<div class=\"charts\">\n{}</div>\n<p class=\"dim\">A figure "
      "beside a "
      "name is the last one. The training loss is that of augmented images, label smoothing "
      "included.</p>\n",
      figures);
}

// ---- headline ----

std::string fact(std::string_view name, const std::string& value, bool wide = false) {
  if (value.empty()) return "";
  return fmt::format("<div{}><dt>{}</dt><dd>{}</dd></div>\n", wide ? " class=\"wide\"" : "", name,
                     escaped(value));
}
template <typename Format>
std::string fact(std::string_view name, std::optional<double> value, Format&& format) {
  return value ? fact(name, format(*value)) : "";
}

std::string score(const Json& result, std::optional<double> views) {
  const auto accuracy = number_at(result, "accuracy/last"),
             tta = number_at(result, "accuracy/last_tta"), n = number_at(result, "accuracy/n");
  if (!accuracy) return "";
  std::string html = fmt::format("<p class=\"score\">{}</p>\n<p>accuracy after the last epoch",
                                 percent(*accuracy));
  if (n) html += fmt::format(" on {} held-out images", grouped(*n));
  const Json* interval = value_at(result, "accuracy/interval95");
  if (interval && interval->is_array() && interval->size() == 2 && (*interval)[0].is_number() &&
      (*interval)[1].is_number())
    html += fmt::format("; 95 % interval {} to {}", percent((*interval)[0].get<double>()),
                        percent((*interval)[1].get<double>()));
  html += "</p>\n";
  if (tta)
    html += fmt::format(
        "<p>{} with each image {} averaged</p>\n", percent(*tta),
        views == 6 ? "in six views, mirrored and moved by a pixel," : "and its mirror image");
  return html;
}

std::string facts(const Json& result) {
  const std::string all =
      fact("Model", text_at(result, "model")) + fact("Data", text_at(result, "dataset")) +
      fact("Recipe", text_at(result, "recipe")) +
      fact("Epochs", number_at(result, "epochs"),
           [](double v) { return fmt::format("{:.4g}", v); }) +
      fact("Images seen", number_at(result, "images"), grouped) +
      fact("Time, start to end", number_at(result, "wall_s"), duration) +
      fact("Time in training", number_at(result, "train_wall_s"), duration) +
      fact("Images per second, median", number_at(result, "images_per_s"),
           [](double v) { return fmt::format("{:.1f}", v); }) +
      fact("Device", text_at(result, "device")) + fact("Precision", text_at(result, "precision")) +
      fact("Convolutions by", text_at(result, "kernel")) +
      fact("Threads", number_at(result, "threads"), grouped) +
      fact("Peak memory", number_at(result, "peak_rss_bytes"), gigabytes) +
      fact("SHA-256 of the weights", text_at(result, "weights_sha256"), true);
  return fmt::format("<dl>\n{}</dl>\n", all);
}

std::string stopped(const RunFolder& run, const History& history) {
  std::string how_far = "before its first line of metrics";
  if (!history.epochs.empty()) {
    const Json& last = history.epochs.back();
    how_far = fmt::format("after epoch {:.4g}", number_at(last, "epoch").value_or(0));
    if (const auto step = number_at(last, "step"))
      how_far += fmt::format(", step {}", grouped(*step));
    if (const auto wall = number_at(last, "wall_s"))
      how_far += fmt::format(", {} in", duration(*wall));
  }
  return fmt::format(
      "<div class=\"warn\"><p><b>This run {}.</b> What follows stops {}, so there is no final "
      "accuracy.</p>\n<pre>./skipway {} {}</pre></div>\n",
      history.gave_up ? "gave up, because its loss diverged" : "is not finished", how_far,
      history.gave_up ? "diagnose" : "resume", escaped(shell_quoted(run.path().string())));
}

// ---- classes ----

struct Confusion {
  std::vector<std::string> classes;
  std::vector<std::vector<double>> counts;  // [label][prediction]
  std::vector<double> totals;               // of a label
};

// Nothing unless it is a square of counts.
std::optional<Confusion> confusion_of(const Json& finish) {
  const Json* rows = value_at(finish, "confusion");
  if (!rows || !rows->is_array() || rows->empty()) return std::nullopt;
  Confusion confusion;
  for (const Json& row : *rows) {
    if (!row.is_array() || row.size() != rows->size()) return std::nullopt;
    std::vector<double>& counts = confusion.counts.emplace_back();
    double total = 0;
    for (const Json& cell : row) {
      if (!cell.is_number()) return std::nullopt;
      total += counts.emplace_back(cell.get<double>());
    }
    confusion.totals.push_back(total);
  }
  const Json* per_class = value_at(finish, "per_class");
  const bool named = per_class && per_class->is_object() && per_class->size() == rows->size();
  if (named)
    for (const auto& [name, accuracy] : per_class->items()) confusion.classes.push_back(name);
  else
    for (size_t i = 0; i < rows->size(); ++i) confusion.classes.push_back(std::to_string(i));
  return confusion;
}

// Off the diagonal, the largest count first: label, prediction.
std::vector<std::pair<size_t, size_t>> mistakes_of(const Confusion& confusion) {
  std::vector<std::pair<size_t, size_t>> mistakes;
  for (size_t label = 0; label < confusion.counts.size(); ++label)
    for (size_t guess = 0; guess < confusion.counts.size(); ++guess)
      if (label != guess && confusion.counts[label][guess] > 0) mistakes.emplace_back(label, guess);
  std::stable_sort(mistakes.begin(), mistakes.end(), [&](const auto& a, const auto& b) {
    return confusion.counts[a.first][a.second] > confusion.counts[b.first][b.second];
  });
  return mistakes;
}

std::string per_class(const Json& finish) {
  const Json* classes = value_at(finish, "per_class");
  if (!classes || !classes->is_object() || classes->empty()) return "";
  std::string rows;
  for (const auto& [name, accuracy] : classes->items()) {
    const double share = accuracy.is_number() ? std::clamp(accuracy.get<double>(), 0.0, 1.0) : 0;
    rows += fmt::format(
        "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td>"
        "<td class=\"bar\"><i style=\"width:{:.1f}%\"></i></td></tr>\n",
        escaped(name), accuracy.is_number() ? percent(share) : "no images", 100 * share);
  }
  return fmt::format(
      "<h2>Class by class</h2>\n<div class=\"scroll\"><table class=\"rows\">\n<caption>Accuracy on "
      "the held-out images of each class, without mirror images</caption>\n{}</table></div>\n",
      rows);
}

std::string matrix(const Confusion& confusion) {
  double most_wrong = 0;  // as a share of the label's images; the strongest red
  for (auto [label, guess] : mistakes_of(confusion))
    most_wrong = std::max(most_wrong, confusion.counts[label][guess] / confusion.totals[label]);
  std::string head, rows;
  for (const std::string& name : confusion.classes)
    head += fmt::format("<th scope=\"col\"><span>{}</span></th>", escaped(name));
  for (size_t label = 0; label < confusion.classes.size(); ++label) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th>", escaped(confusion.classes[label]));
    for (size_t guess = 0; guess < confusion.classes.size(); ++guess) {
      const double count = confusion.counts[label][guess];
      const bool right = label == guess;
      const double share = count > 0 ? count / confusion.totals[label] : 0;
      // From 0.75 on, white text has the better contrast on a light page too.
      const double strength = right ? share : share > 0 ? 0.03 + 0.87 * share / most_wrong : 0;
      rows += fmt::format(
          "<td{} style=\"background:rgba({},{:.2f})\" title=\"{} as {}: {}\">{}</td>",
          strength >= 0.75 ? " class=\"strong\"" : "", right ? "31,95,166" : "176,48,32", strength,
          escaped(confusion.classes[label]), escaped(confusion.classes[guess]), grouped(count),
          count > 0 ? grouped(count) : "");
    }
    rows += "</tr>\n";
  }
  return fmt::format(
      "<div class=\"scroll\"><table class=\"matrix\">\n<caption>Rows: what an image is. Columns: "
      "what it "
      "was taken for. Numbers of images, without mirror images; an empty cell is none.</caption>\n"
      "<thead><tr><th></th>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
      head, rows);
}

std::string commonest_mistakes(const Confusion& confusion) {
  std::vector<std::pair<size_t, size_t>> mistakes = mistakes_of(confusion);
  if (mistakes.empty()) return "";
  mistakes.resize(std::min(mistakes.size(), kMaxMistakes));
  std::string rows;
  for (auto [label, guess] : mistakes)
    rows += fmt::format(
        "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
        escaped(confusion.classes[label]), escaped(confusion.classes[guess]),
        grouped(confusion.counts[label][guess]),
        percent(confusion.counts[label][guess] / confusion.totals[label]));
  return fmt::format(
      "<div class=\"scroll\"><table class=\"rows\">\n<caption>The commonest "
      "mistakes</caption>\n<thead><tr>"
      "<th>is</th><th>taken for</th><th class=\"n\">images</th><th class=\"n\">of its "
      "class</th></tr></thead>"
      "\n<tbody>\n{}</tbody></table></div>\n",
      rows);
}

std::string confusion(const Json& finish) {
  const std::optional<Confusion> found = confusion_of(finish);
  if (!found) return "";
  return fmt::format(
      "<h2>What is taken for what</h2>\n{}",
      found->classes.size() <= kMaxMatrixClasses ? matrix(*found) : commonest_mistakes(*found));
}

// ---- how it came about ----

std::string configuration(const RunFolder& run) {
  if (!fs::exists(run.config_toml())) return "";
  return fmt::format(
      "<h2>The same run again</h2>\n<pre>./skipway train --config {}</pre>\n"
      "<h2>Configuration</h2>\n<pre>{}</pre>\n",
      escaped(shell_quoted(run.config_toml().string())), escaped(read_file(run.config_toml())));
}

// Rows of a name and a value.
std::string facts_table(std::string_view heading,
                        const std::vector<std::pair<std::string, std::string>>& facts) {
  if (facts.empty()) return "";
  std::string rows;
  for (const auto& [name, value] : facts)
    rows += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escaped(name),
                        escaped(value));
  return fmt::format(
      "<h2>{}</h2>\n<div class=\"scroll\"><table class=\"rows\">\n{}</table></div>\n", heading,
      rows);
}

// Which method computes the convolutions of each shape.
std::string kernels(const Json& result) {
  const Json* chosen = value_at(result, "kernels");
  if (!chosen || !chosen->is_object()) return "";
  std::vector<std::pair<std::string, std::string>> facts;
  for (const auto& [shape, method] : chosen->items())
    facts.emplace_back(shape == "muon" ? "Muon's step" : shape,
                       method.is_string() ? method.get<std::string>() : method.dump());
  return facts_table("Kernels", facts);
}

std::string machine(const RunFolder& run) {
  if (!fs::exists(run.env_json())) return "";
  const Json env = parse_json(read_file(run.env_json()));
  if (!env.is_object()) return "<h2>Machine</h2>\n<p>env.json is damaged.</p>\n";
  std::vector<std::pair<std::string, std::string>> facts;
  for (const auto& [key, value] : env.items()) {
    if (key == "schema") continue;
    std::string name = key, shown = value.is_string() ? value.get<std::string>() : value.dump();
    std::replace(name.begin(), name.end(), '_', ' ');
    if (key == "memory_bytes" && value.is_number()) {
      name = "memory";
      shown = gigabytes(value.get<double>());
    } else if (value.is_array()) {
      shown.clear();
      for (const Json& item : value) {
        if (!shown.empty()) shown += ", ";
        shown += item.is_string() ? item.get<std::string>() : item.dump();
      }
    }
    facts.emplace_back(name, shown);
  }
  return facts_table("Machine", facts);
}

}  // namespace

void write_report(const RunFolder& run) {
  const History history = history_of(run.read_metrics());
  const Json finish = history.end.value_or(Json::object());
  const Json* found = value_at(finish, "result");
  const Json result = found ? *found : Json::object();

  const fs::path folder = run.path().lexically_normal();
  const std::string title = escaped(folder.string());
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      // The page asks the browser itself to run nothing and to load nothing.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n<title>{} · Skipway</title>\n<style>{}</style>\n</head>\n<body>\n"
      "<h1>Skipway run {}</h1>\n",
      title, kStyle, title);
  page += history.end ? score(result, number_at(finish, "views")) + facts(result)
                      : stopped(run, history);
  page += curves(history) + per_class(finish) + confusion(finish) + configuration(run) +
          kernels(result) + machine(run);
  page += "</body>\n</html>\n";
  write_file_atomic(run.report_html(), page);
}

}  // namespace skipway
