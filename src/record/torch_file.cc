// Reading and writing of torch.save's files: a zip archive of a pickle, which names tensors, and of
// one entry for each storage. Every number in a file is checked before it is believed.
#include "record/torch_file.h"

#include <ATen/ATen.h>
#include <archive.h>
#include <archive_entry.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "record/complaint.h"
#include "record/foreign_tensor.h"
#include "record/pickle.h"

namespace skipway {
namespace {

using Kind = PickleValue::Kind;

static_assert(std::endian::native == std::endian::little,
              "tensors are stored as they lie in memory");

constexpr std::pair<at::ScalarType, std::string_view> kStorages[] = {
    {at::kDouble, "DoubleStorage"},     {at::kFloat, "FloatStorage"}, {at::kHalf, "HalfStorage"},
    {at::kBFloat16, "BFloat16Storage"}, {at::kLong, "LongStorage"},   {at::kInt, "IntStorage"},
    {at::kShort, "ShortStorage"},       {at::kChar, "CharStorage"},   {at::kByte, "ByteStorage"},
    {at::kBool, "BoolStorage"}};

constexpr const char* kRebuild = "torch._utils._rebuild_tensor_v2";
constexpr const char* kRebuildOld = "torch._utils._rebuild_tensor";
constexpr const char* kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr const char* kParameter = "torch.nn.parameter.Parameter";
constexpr std::string_view kTensorMakers[] = {kRebuild, kRebuildOld, kRebuildParameter, kParameter};
// What stands beside tensors in a checkpoint and torch.load takes with its defaults: a MultiStepLR
// has a Counter, an optimizer may have a type.
constexpr std::string_view kOthers[] = {
    "collections.Counter", "torch.Size",    "torch.device", "torch.float16", "torch.bfloat16",
    "torch.float32",       "torch.float64", "torch.uint8",  "torch.int8",    "torch.int16",
    "torch.int32",         "torch.int64",   "torch.bool"};

constexpr int kMaxDepth = 4;  // of dicts in dicts; checkpoints have two
constexpr int64_t kMaxVisits = 1'000'000;
// Tensors may share a storage; of few bytes nobody needs to be afraid.
constexpr size_t kMaxViews = 16, kSmallBytes = 1 << 16;
constexpr size_t kMaxNameBytes = 100'000'000;  // of all names together; a tensor's is kept twice
// The last eight bytes of the number that the old form begins with.
constexpr auto kOldMagic = static_cast<int64_t>(0xa86a20f9469cfc6c);

const std::set<std::string>& known_globals() {
  static const std::set<std::string> names = [] {
    std::set<std::string> all(std::begin(kTensorMakers), std::end(kTensorMakers));
    all.insert(std::begin(kOthers), std::end(kOthers));
    for (const auto& [type, name] : kStorages) {
      all.insert(fmt::format("torch.{}", name));
      all.insert(fmt::format("torch.cuda.{}", name));
    }
    return all;
  }();
  return names;
}

// Bytes of a storage by its key; a copy, so that elements lie at multiples of their size.
using Storages = std::map<std::string, at::Tensor>;

at::Tensor copy_of(std::string_view bytes) {
  at::Tensor copy = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) std::memcpy(copy.data_ptr(), bytes.data(), bytes.size());
  return copy;
}

// ---- from a pickle to tensors

class TensorBuilder {
 public:
  TensorBuilder(const Storages& storages, const Complaint& complain)
      : storages_(storages), complain_(complain) {
    for (const auto& [key, storage] : storages) storage_bytes_ += storage.nbytes();
  }

  NamedTensors build(const PickleValue& root) {
    walk(root, "", 0);
    return std::move(tensors_);
  }

 private:
  void walk(const PickleValue& value, const std::string& name, int depth) {
    if (++visits_ > kMaxVisits)
      complain_("expected at most {} values in nested dicts, got more", kMaxVisits);
    // A long key stands once in the file, and in the name of each value behind it.
    if ((name_bytes_ += name.size()) > kMaxNameBytes)
      complain_("expected names of at most {} bytes in nested dicts, got more", kMaxNameBytes);
    if (value.kind == Kind::kCall && makes_tensor(value)) {
      if (!names_.insert(name).second) complain_("expected unique keys, got \"{}\" twice", name);
      tensors_.emplace_back(name, tensor(value, name, 0));
      if ((bytes_ += tensors_.back().second.nbytes()) >
          std::max(kSmallBytes, kMaxViews * storage_bytes_))
        complain_("expected tensors of at most {} times the bytes in the file, got more",
                  kMaxViews);
    }
    if (value.kind != Kind::kDict || depth > kMaxDepth) return;
    for (size_t i = 0; i + 1 < value.items.size(); i += 2) {
      // The numbers of an optimizer's parameters are keys too.
      const PickleValue& key = *value.items[i];
      const std::string text = key.kind == Kind::kInt ? fmt::format("{}", key.integer) : key.text;
      walk(*value.items[i + 1], name.empty() ? text : name + "." + text, depth + 1);
    }
  }

  static bool makes_tensor(const PickleValue& call) {
    return std::ranges::find(kTensorMakers, call.items[0]->text) != std::end(kTensorMakers);
  }

  at::Tensor tensor(const PickleValue& call, const std::string& name, int depth) const {
    const std::string& function = call.items[0]->text;
    const auto& arguments = call.items[1]->items;
    const auto expect = [&](bool holds, const char* what) {
      if (!holds) complain_("expected {} in {} of \"{}\"", what, function, name);
    };
    if (function == kRebuildParameter || function == kParameter) {
      // A file of 2017 gives the tensor as the first part of a state instead.
      const PickleValue* inner = !arguments.empty() ? arguments.front()
                                 : call.items.size() > 2 && !call.items[2]->items.empty()
                                     ? call.items[2]->items.front()
                                     : nullptr;
      expect(inner && inner->kind == Kind::kCall && depth == 0, "a tensor");
      return tensor(*inner, name, depth + 1);
    }
    expect((function == kRebuild || function == kRebuildOld) && arguments.size() >= 4,
           "a storage, an offset, a shape and strides");
    expect(arguments[0]->kind == Kind::kPersistent && arguments[1]->kind == Kind::kInt,
           "a storage and an offset");
    const at::Tensor storage = typed_storage(*arguments[0], name);
    const std::vector<int64_t> shape = integers(*arguments[2], name);
    const std::vector<int64_t> strides = integers(*arguments[3], name);
    const int64_t offset = arguments[1]->integer;
    expect(shape.size() == strides.size() && offset >= 0, "a stride for each size");
    check_bounds(shape, strides, offset, storage.numel(), name);
    return storage.as_strided(shape, strides, offset);
  }

  std::vector<int64_t> integers(const PickleValue& value, const std::string& name) const {
    if (value.items.size() > kMaxDims)
      complain_("expected at most {} dimensions of \"{}\", got {}", kMaxDims, name,
                value.items.size());
    std::vector<int64_t> numbers;
    for (const PickleValue* item : value.items) {
      if (item->kind != Kind::kInt || item->integer < 0 || value.kind != Kind::kTuple)
        complain_("expected whole numbers as shape and strides of \"{}\"", name);
      numbers.push_back(item->integer);
    }
    return numbers;
  }

  // Last element within the storage, and no more elements than it has, which strides of zero would
  // make.
  void check_bounds(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                    int64_t offset, int64_t available, const std::string& name) const {
    int64_t elements = 1, last = offset;
    bool good = true;
    for (size_t i = 0; i < shape.size(); ++i) {
      int64_t span = 0;
      good &= !__builtin_mul_overflow(elements, std::max<int64_t>(shape[i], 1), &elements);
      good &= !__builtin_mul_overflow(std::max<int64_t>(shape[i] - 1, 0), strides[i], &span);
      good &= !__builtin_add_overflow(last, span, &last);
    }
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (!good || (!empty && (elements > available || last >= available)))
      complain_(
          "expected \"{}\" within its storage of {} elements, got shape [{}], strides [{}], "
          "offset {}",
          name, available, fmt::join(shape, ","), fmt::join(strides, ","), offset);
  }

  // ('storage', type, key, device, elements), and in the old form a view, which is None.
  at::Tensor typed_storage(const PickleValue& persistent, const std::string& name) const {
    const auto& id = persistent.items[0]->items;
    if (id.size() < 5 || id[0]->text != "storage" || id[1]->kind != Kind::kGlobal ||
        id[4]->kind != Kind::kInt || (id.size() > 5 && id[5]->kind != Kind::kNone))
      complain_("expected the type, key and size of a storage for \"{}\"", name);
    const std::string_view type_name =
        std::string_view(id[1]->text).substr(id[1]->text.rfind('.') + 1);
    const auto* type = std::find_if(std::begin(kStorages), std::end(kStorages),
                                    [&](const auto& pair) { return pair.second == type_name; });
    if (type == std::end(kStorages))
      complain_("expected a storage, got {} for \"{}\"", id[1]->text, name);
    const auto found = storages_.find(id[2]->text);
    if (found == storages_.end())
      complain_("expected the storage \"{}\" of \"{}\", got none", id[2]->text, name);
    const auto width = static_cast<int64_t>(c10::elementSize(type->first));
    const int64_t bytes = found->second.numel();
    if (bytes % width != 0 || bytes / width != id[4]->integer)
      complain_("expected {} elements of {} in the storage of \"{}\", got {} bytes", id[4]->integer,
                type->second, name, bytes);
    if (type->first == at::kBool &&
        !are_bools(found->second.const_data_ptr(), static_cast<size_t>(bytes)))
      complain_("expected bytes 0 and 1 in the BoolStorage of \"{}\"", name);
    return found->second.view(type->first);
  }

  const Storages& storages_;
  const Complaint& complain_;
  NamedTensors tensors_;
  std::set<std::string> names_;
  int64_t visits_ = 0;
  size_t name_bytes_ = 0;
  size_t storage_bytes_ = 0, bytes_ = 0;  // of all storages, of all tensors
};

// ---- the zip form

struct CloseArchive {
  void operator()(archive* zip) const { archive_read_free(zip); }
};

// The entries of a zip archive by name. PyTorch compresses none, so that together they are smaller
// than the file; one that would unpack to more is refused before it does.
std::map<std::string, std::string> read_zip(const std::string& bytes, const Complaint& complain) {
  const std::unique_ptr<archive, CloseArchive> zip(archive_read_new());
  const auto check = [&](int code) {
    if (code == ARCHIVE_OK) return;
    const char* message = archive_error_string(zip.get());
    complain("expected a whole zip archive, got '{}'", message ? message : "something else");
  };
  check(archive_read_support_format_zip_seekable(zip.get()));
  check(archive_read_open_memory(zip.get(), bytes.data(), bytes.size()));
  std::map<std::string, std::string> entries;
  size_t total = 0;
  archive_entry* entry = nullptr;
  int code = ARCHIVE_OK;
  while ((code = archive_read_next_header(zip.get(), &entry)) != ARCHIVE_EOF) {
    check(code);
    const char* name = archive_entry_pathname(entry);
    // A name outside the locale's characters comes as UTF-8 alone.
    if (name == nullptr) name = archive_entry_pathname_utf8(entry);
    if (name == nullptr) complain("expected a name of each entry, got none");
    const auto size = static_cast<size_t>(archive_entry_size(entry));
    if (!archive_entry_size_is_set(entry) || size > bytes.size() - total)
      complain("expected entries of together at most the file's {} bytes, got more", bytes.size());
    total += size;
    std::string content(size, '\0');
    // Behind the last byte the checksum is compared.
    if (archive_read_data(zip.get(), content.data(), size) != static_cast<la_ssize_t>(size))
      complain("expected {} bytes in the entry {}; cut short or damaged", size, name);
    char rest = 0;
    if (archive_read_data(zip.get(), &rest, 1) != 0)
      complain("expected the entry {} as it was written, got '{}'", name,
               archive_error_string(zip.get()) ? archive_error_string(zip.get()) : "more bytes");
    if (!entries.emplace(name, std::move(content)).second)
      complain("expected unique entries, got {} twice", name);
  }
  return entries;
}

NamedTensors read_new_form(const std::string& bytes, const fs::path& path,
                           const Complaint& complain) {
  constexpr std::string_view kPickle = "data.pkl";
  const auto entries = read_zip(bytes, complain);
  std::string folder;
  for (const auto& [name, content] : entries)
    if (name.ends_with(kPickle)) folder = name.substr(0, name.size() - kPickle.size());
  const auto pickled = entries.find(folder + std::string(kPickle));
  if (pickled == entries.end())
    complain("expected an archive of torch.save with a {}, got none", kPickle);
  const auto order = entries.find(folder + "byteorder");
  if (order != entries.end() && order->second != "little")
    complain("expected byteorder little, got {}", order->second.substr(0, 20));
  if (entries.contains(folder + "constants.pkl"))
    complain("expected a state_dict of torch.save, got a TorchScript model");
  Storages storages;
  const std::string data = folder + "data/";
  for (const auto& [name, content] : entries)
    if (name.starts_with(data)) storages[name.substr(data.size())] = copy_of(content);
  const Pickle pickle = read_pickle(pickled->second, known_globals(), path.string());
  return TensorBuilder(storages, complain).build(*pickle.root);
}

// ---- the old form: five pickles and the storages behind them

NamedTensors read_old_form(std::string_view bytes, const fs::path& path,
                           const Complaint& complain) {
  const auto next_pickle = [&] {
    Pickle pickle = read_pickle(bytes, known_globals(), path.string());
    bytes.remove_prefix(pickle.bytes);
    return pickle;
  };
  const Pickle magic = next_pickle();
  if (magic.root->kind != Kind::kInt || magic.root->integer != kOldMagic)
    complain("expected a file of torch.save, got another pickle");
  next_pickle();  // the version, 1001 in every file
  const Pickle system = next_pickle();
  for (size_t i = 0; i + 1 < system.root->items.size(); i += 2)
    if (system.root->items[i]->text == "little_endian" && system.root->items[i + 1]->integer == 0)
      complain("expected byteorder little, got big");
  const Pickle object = next_pickle();
  const Pickle keys = next_pickle();

  // The width of a storage's elements stands where the storage is used.
  std::map<std::string, int64_t> widths;
  for (const PickleValue& value : object.values) {
    if (value.kind != Kind::kPersistent || value.items[0]->items.size() < 5) continue;
    const auto& id = value.items[0]->items;
    for (const auto& [type, name] : kStorages)
      if (id[1]->text.ends_with(fmt::format(".{}", name)))
        widths[id[2]->text] = static_cast<int64_t>(c10::elementSize(type));
  }
  Storages storages;
  for (const PickleValue* key : keys.root->items) {
    int64_t elements = 0;
    if (bytes.size() < sizeof(elements))
      complain("expected the storage {}; the file is cut short", key->text);
    std::memcpy(&elements, bytes.data(), sizeof(elements));
    bytes.remove_prefix(sizeof(elements));
    const auto width = widths.find(key->text);
    if (width == widths.end()) complain("expected the type of the storage {}, got none", key->text);
    const int64_t available = static_cast<int64_t>(bytes.size()) / width->second;
    if (elements < 0 || elements > available)
      complain("expected {} elements in the storage {}, got {}; the file is cut short", elements,
               key->text, available);
    const auto count = static_cast<size_t>(elements * width->second);
    storages[key->text] = copy_of(bytes.substr(0, count));
    bytes.remove_prefix(count);
  }
  return TensorBuilder(storages, complain).build(*object.root);
}

// ---- writing

void append_integer(std::string& bytes, uint64_t value, size_t width) {  // little-endian
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

// The pickle of a state_dict, in protocol 2.
class PickleWriter {
 public:
  explicit PickleWriter(const NamedTensors& tensors) {
    bytes_ = "\x80\x02";
    dict();
    bytes_ += '(';  // MARK
    for (size_t i = 0; i < tensors.size(); ++i) {
      text(tensors[i].first);
      tensor(tensors[i].second, i);
    }
    bytes_ += "u.";  // SETITEMS, STOP
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void dict() { bytes_ += "ccollections\nOrderedDict\n)R"; }
  void text(const std::string& value) {
    bytes_ += 'X';
    append_integer(bytes_, value.size(), 4);
    bytes_ += value;
  }
  void integer(int64_t value) {
    bytes_ += "\x8a\x08";  // LONG1
    append_integer(bytes_, static_cast<uint64_t>(value), 8);
  }
  void tuple(at::IntArrayRef values) {
    bytes_ += '(';
    for (const int64_t value : values) integer(value);
    bytes_ += 't';
  }
  void tensor(const at::Tensor& tensor, size_t key) {
    bytes_ += "ctorch._utils\n_rebuild_tensor_v2\n((";
    text("storage");
    const auto* type =
        std::find_if(std::begin(kStorages), std::end(kStorages),
                     [&](const auto& pair) { return pair.first == tensor.scalar_type(); });
    if (type == std::end(kStorages))
      fail(ErrorKind::kInternal, "torch file", "expected a type that can be stored, got {}",
           c10::toString(tensor.scalar_type()));
    bytes_ += fmt::format("ctorch\n{}\n", type->second);
    text(fmt::format("{}", key));
    text("cpu");
    integer(tensor.numel());
    bytes_ += "tQ";  // TUPLE, BINPERSID
    integer(0);      // offset
    tuple(tensor.sizes());
    tuple(tensor.strides());
    bytes_ += '\x89';  // requires no gradient
    dict();            // hooks
    bytes_ += "tR";    // TUPLE, REDUCE
  }

  std::string bytes_;
};

// A zip archive of stored entries, each beginning at a multiple of 64 bytes as PyTorch has it, so
// that it can map them into memory.
class ZipWriter {
 public:
  void add(const std::string& name, std::string_view content) {
    const auto crc = static_cast<uint32_t>(
        crc32_z(0, reinterpret_cast<const unsigned char*>(content.data()), content.size()));
    std::string fields;                   // that the local and the central header share
    append_integer(fields, 0, 2);         // flags
    append_integer(fields, 0, 2);         // stored
    append_integer(fields, 0x210000, 4);  // 1 January 1980: equal weights make equal files
    append_integer(fields, crc, 4);
    append_integer(fields, content.size(), 4);
    append_integer(fields, content.size(), 4);
    append_integer(fields, name.size(), 2);

    std::string local = "PK\x03\x04";
    append_integer(local, 20, 2);  // version
    local += fields;
    // A field of its own fills up to the boundary: a tag, a length, and bytes without a meaning.
    const uint64_t begin = offset_ + local.size() + 2 + name.size() + 4;
    const uint64_t padding = (kAlignment - begin % kAlignment) % kAlignment;
    append_integer(local, padding + 4, 2);
    local += name + "FB";
    append_integer(local, padding, 2);
    local.append(padding, 'Z');

    central_ += "PK\x01\x02";
    append_integer(central_, 20, 2);
    append_integer(central_, 20, 2);
    central_ += fields;
    append_integer(central_, 0, 2 + 2 + 2 + 2);  // extra, comment, disk, internal attributes
    append_integer(central_, 0, 4);              // external attributes
    append_integer(central_, offset_, 4);
    central_ += name;

    ++count_;
    offset_ += local.size() + content.size();
    if (offset_ > UINT32_MAX || count_ > UINT16_MAX)
      fail(ErrorKind::kInternal, "torch file", "expected below 4 GB and 65536 tensors to write");
    headers_.push_back(std::move(local));
    contents_.push_back(content);
  }

  void write(const fs::path& path) {
    std::string end = "PK\x05\x06";
    append_integer(end, 0, 4);  // disks
    append_integer(end, count_, 2);
    append_integer(end, count_, 2);
    append_integer(end, central_.size(), 4);
    append_integer(end, offset_, 4);
    append_integer(end, 0, 2);  // comment
    write_file_atomic(path, [&](const ByteSink& write) {
      for (size_t i = 0; i < contents_.size(); ++i) {
        write(headers_[i]);
        write(contents_[i]);
      }
      write(central_);
      write(end);
    });
  }

 private:
  static constexpr uint64_t kAlignment = 64;
  std::vector<std::string> headers_;
  std::vector<std::string_view> contents_;
  std::string central_;
  uint64_t offset_ = 0;
  uint64_t count_ = 0;
};

}  // namespace

NamedTensors read_torch_file(const fs::path& path) {
  const Complaint complain(ErrorKind::kData, "torch file", path);
  const std::string bytes = read_file(path);
  if (bytes.starts_with("PK")) return read_new_form(bytes, path, complain);
  if (bytes.starts_with("\x80\x02")) return read_old_form(bytes, path, complain);
  complain("expected a file of torch.save, zip or pickle, got something else");
}

void write_torch_file(const fs::path& path, const NamedTensors& tensors) {
  NamedTensors stored;
  for (const auto& [name, tensor] : tensors)
    stored.emplace_back(name, tensor.detach().to(at::kCPU).contiguous());
  const PickleWriter pickle(stored);
  ZipWriter zip;
  zip.add("archive/data.pkl", pickle.bytes());
  zip.add("archive/byteorder", "little");
  for (size_t i = 0; i < stored.size(); ++i)
    zip.add(fmt::format("archive/data/{}", i), bytes_of(stored[i].second));
  zip.add("archive/version", "3\n");
  zip.write(path);
}

}  // namespace skipway
