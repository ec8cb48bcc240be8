// Reading and writing safetensors files, with every check that a file from elsewhere needs. Not
// what the tensors mean.
#include "record/safetensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "record/complaint.h"
#include "record/foreign_tensor.h"

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little,
              "tensors are stored as they lie in memory");

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr uint64_t kAlignment = 8;
constexpr size_t kMaxNames = 20'000;  // nlohmann looks for each among all; a ResNet-152 has 1,000
// In all, with what begins and ends each: a name has a type, sizes and two offsets.
constexpr size_t kMaxValues = 32 * kMaxNames;

constexpr std::pair<at::ScalarType, std::string_view> kTypes[] = {
    {at::kDouble, "F64"}, {at::kFloat, "F32"}, {at::kHalf, "F16"},  {at::kBFloat16, "BF16"},
    {at::kLong, "I64"},   {at::kInt, "I32"},   {at::kShort, "I16"}, {at::kChar, "I8"},
    {at::kByte, "U8"},    {at::kBool, "BOOL"}};

// One tensor as the header describes it, checked.
struct Entry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  int64_t begin, end;  // offsets after the header [bytes]
};

// nlohmann keeps one of two equal keys in silence, and builds any depth; neither is welcome here.
Json parse_header(const std::string& text, const Complaint& complain) {
  std::vector<std::set<std::string>> keys;
  size_t values = 0;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 3) complain("expected a header of three levels, got deeper nesting");
    if (++values > kMaxValues) complain("expected at most {} values, got more", kMaxValues);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) complain("expected unique keys, got \"{}\" twice", key);
      if (keys.back().size() > kMaxNames)
        complain("expected at most {} names, got more", kMaxNames);
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& error) {
    complain("expected a JSON header, got: {}", error.what());
  }
}

int64_t get_integer(const Json& value, const std::string& name, const Complaint& complain) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
    complain("expected whole numbers in shape and data_offsets of \"{}\", got {}", name,
             value.dump());
  return value.get<int64_t>();
}

Entry parse_entry(const std::string& name, const Json& value, const Complaint& complain) {
  const auto field = [&](const char* key) -> const Json& {
    if (!value.is_object() || !value.contains(key)) complain("expected {} in \"{}\"", key, name);
    return value[key];
  };
  Entry entry{.name = name, .type = at::kFloat, .shape = {}, .begin = 0, .end = 0};

  const Json& type = field("dtype");
  const auto known = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const auto& pair) { return type == pair.second; });
  if (known == std::end(kTypes))
    complain("expected a dtype from F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL for \"{}\", got {}",
             name, type.dump());
  entry.type = known->first;

  const Json& shape = field("shape");
  if (!shape.is_array()) complain("expected a list as the shape of \"{}\"", name);
  if (shape.size() > kMaxDims)
    complain("expected at most {} dimensions of \"{}\", got {}", kMaxDims, name, shape.size());
  int64_t bytes = static_cast<int64_t>(c10::elementSize(entry.type));
  int64_t stride = bytes;  // as bytes, but a size of 0 counts as 1: LibTorch multiplies these too
  bool overflow = false;
  for (const Json& item : shape) {
    const int64_t size = get_integer(item, name, complain);
    overflow |= __builtin_mul_overflow(bytes, size, &bytes);
    overflow |= __builtin_mul_overflow(stride, std::max<int64_t>(size, 1), &stride);
    entry.shape.push_back(size);
  }
  if (overflow) complain("expected a size below 2^63 bytes of \"{}\", got {}", name, shape.dump());

  const Json& offsets = field("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2)
    complain("expected two data_offsets of \"{}\", got {}", name, offsets.dump());
  entry.begin = get_integer(offsets[0], name, complain);
  entry.end = get_integer(offsets[1], name, complain);
  if (entry.begin > entry.end || entry.end - entry.begin != bytes)
    complain("expected {} bytes for {} {} of \"{}\", got data_offsets {}", bytes,
             std::string(known->second), shape.dump(), name, offsets.dump());
  return entry;
}

}  // namespace

at::Tensor stored_form(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU).contiguous();
}

void write_safetensors(const fs::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadataKey)] = metadata;
  std::set<std::string> names{std::string(kMetadataKey)};
  size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    if (!names.insert(name).second)
      fail(ErrorKind::kInternal, "safetensors", "expected unique names, got \"{}\" again for {}",
           name, path.string());
    const auto known = std::find_if(
        std::begin(kTypes), std::end(kTypes),
        [type = tensor.scalar_type()](const auto& pair) { return pair.first == type; });
    if (known == std::end(kTypes))
      fail(ErrorKind::kInternal, "safetensors", "expected a type that can be stored, got {} for {}",
           c10::toString(tensor.scalar_type()), name);
    const size_t end = offset + tensor.nbytes();
    header[name] = {
        {"dtype", known->second}, {"shape", tensor.sizes().vec()}, {"data_offsets", {offset, end}}};
    offset = end;
  }

  // `replace`: a path in the metadata need not be UTF-8.
  std::string header_text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  header_text.resize((header_text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const uint64_t header_bytes = header_text.size();
  write_file_atomic(path, [&](const ByteSink& write) {
    write({reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes)});
    write(header_text);
    for (const auto& [name, tensor] : tensors) write(bytes_of(stored_form(tensor)));
  });
}

SafetensorsFile read_safetensors(const fs::path& path) {
  const Complaint complain(ErrorKind::kCheckpoint, "safetensors", path);
  std::error_code code;
  const uint64_t file_bytes = fs::file_size(path, code);
  const auto require_disk = [&](int reason) {
    if (kind_of_failure(reason) == ErrorKind::kDisk) fail_to("read", path, reason, "safetensors");
  };
  require_disk(code.value());
  if (code) complain("expected a file, got \"{}\"", code.message());
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  const auto read = [&](void* target, uint64_t bytes) {
    file.read(static_cast<char*>(target), static_cast<std::streamsize>(bytes));
    if (file) return;
    require_disk(errno);
    complain("expected {} more readable bytes", bytes);
  };

  uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes))
    complain("expected at least 8 bytes, got {}; the file is cut off", file_bytes);
  read(&header_bytes, sizeof(header_bytes));
  if (header_bytes > std::min(kMaxHeaderBytes, file_bytes - sizeof(header_bytes)))
    complain("expected a header of at most {} bytes, got the length {}; cut off or no safetensors",
             std::min(kMaxHeaderBytes, file_bytes - sizeof(header_bytes)), header_bytes);
  std::string header_text(header_bytes, '\0');
  read(header_text.data(), header_bytes);
  if (!header_text.starts_with('{')) complain("expected a header that begins with {{");
  const Json header = parse_header(header_text, complain);

  SafetensorsFile result;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != kMetadataKey) {
      entries.push_back(parse_entry(name, value, complain));
      continue;
    }
    if (!value.is_object()) complain("expected an object as {}", kMetadataKey);
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) complain("expected text for \"{}\" in {}", key, kMetadataKey);
      result.metadata[key] = text.get<std::string>();
    }
  }

  // In the order of offsets each tensor must begin where the one before it ended.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t offset = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != offset)
      complain("expected \"{}\" to begin at byte {}, got {}: {}", entry.name, offset, entry.begin,
               entry.begin < offset ? "tensors overlap" : "there is a gap");
    offset = entry.end;
  }
  const uint64_t data_bytes = file_bytes - sizeof(header_bytes) - header_bytes;
  if (static_cast<uint64_t>(offset) != data_bytes)
    complain("expected {} bytes of tensors, got {}; cut off or written twice", offset, data_bytes);

  for (const Entry& entry : entries) {
    at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(entry.type));
    read(tensor.data_ptr(), tensor.nbytes());
    if (entry.type == at::kBool && !are_bools(tensor.const_data_ptr(), tensor.nbytes()))
      complain("expected bytes 0 and 1 in the BOOL tensor \"{}\"", entry.name);
    result.tensors.emplace_back(entry.name, std::move(tensor));
  }
  return result;
}

}  // namespace skipway
