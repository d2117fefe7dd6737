// The forward of a Llama or Qwen3 model with int8 weights and 16-bit rows (W8A16), whole steps at a time.
//
// The C functions at the end are all that Python sees (`engine/native/library.py`). Rows are quantised each
// by its own maximum, norms, rotation, softmax and the residual stream are float32, keys and values bfloat16.
// No row's arithmetic depends on another row, so answers are the same in any batch and with any chunking.
#include <memory>

#include "attention.h"
#include "product.h"

namespace {

constexpr int kExactLogits = 32;  // leading candidates whose logits are computed again in float32

struct Layer {
  std::vector<float> attention_norm, mlp_norm, query_norm, key_norm;  // the last two empty without head norms
  Weight qkv, attention_out, gate_up, mlp_out;
};

struct Step {
  int64_t num_rows, num_sequences, num_logits, num_captured;
  const int64_t *token_ids, *positions, *slots;                 // [rows]
  const int64_t *first_rows, *widths;                           // [sequences]
  const int64_t* const* block_ids;                              // [sequences] each [blocks]
  const int64_t* logit_rows;                                    // [num_logits]
  const int64_t* captured;  // [num_captured] layers, or num_layers alone: the state after the final norm
  uint16_t* const* cache;                                       // [layers], blocks as attention.h reads them
  float *logits, *features;                                     // [num_logits, V], [rows, num_captured, D]
};

struct Model {
  int64_t hidden, inner, vocabulary;
  Heads heads;
  float epsilon;
  const float *cosine, *sine;               // [positions, d]
  const uint16_t *embedding, *head_rows;    // [V, D] bfloat16
  std::vector<float> final_norm;
  std::vector<std::unique_ptr<Layer>> layers;
  Weight head;
  bool has_amx;

  // Of one step, kept for the next.
  std::vector<float> stream, fused, queries, attended, gated, normed, scales, peaks;
  std::vector<int8_t> bytes;
  std::vector<AttentionTask> tasks;

  void run(const Step& step);

 private:
  void reserve(const Step& step);
  void list_tasks(const Step& step);
  void norm_row(const float* row, const std::vector<float>& weight, float* to) const;
  void norm_and_quantise(int64_t num_rows, const std::vector<float>& weight);
  void quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride);
  void rotate_row(const Layer& layer, const Step& step, int64_t row, uint16_t* cache);
  void rotate_head(float* head, const std::vector<float>& norm, int64_t position) const;
  void run_layer(const Layer& layer, const Step& step, int64_t index);
  void attend_rows(const Step& step, const uint16_t* cache);
  void add_product(const Weight& weight, int64_t num_rows);
  void capture_layer(const Step& step, int64_t place);
  void compute_logits(const Step& step);
  void sharpen(const float* row, const float* peaks_of_row, float* logits) const;
};

template <class Kind>
void grow(std::vector<Kind>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

void Model::reserve(const Step& step) {
  const int64_t rows = step.num_rows, logits = step.num_logits;
  const int64_t most = rows > logits ? rows : logits, all_heads = heads.num_heads * heads.head_dim;
  int64_t widest = inner > hidden ? inner : hidden;
  widest = widest > all_heads ? widest : all_heads;
  grow(stream, rows * hidden);
  grow(fused, rows * (all_heads + 2 * heads.num_kv_heads * heads.head_dim));
  grow(queries, rows * all_heads);
  grow(attended, rows * all_heads);
  grow(gated, rows * inner);
  grow(normed, most * hidden);
  grow(scales, most);
  grow(peaks, logits * head.num_pairs);
  grow(bytes, bytes_for(most, round_up(widest, kTileDepth)));
}

// The longest first, so that no thread is left alone with one at the end.
void Model::list_tasks(const Step& step) {
  tasks.clear();
  for (int64_t index = 0; index < step.num_sequences; ++index) {
    const int64_t queries_a_head = step.widths[index] * heads.shared();
    for (int64_t end = queries_a_head; end > 0; end -= kLanes)
      for (int64_t kv_head = 0; kv_head < heads.num_kv_heads; ++kv_head) {
        const int64_t first = end > kLanes ? end - kLanes : 0;
        tasks.push_back({step.first_rows[index], first, end - first, kv_head, step.block_ids[index]});
      }
  }
}

void Model::norm_row(const float* row, const std::vector<float>& weight, float* to) const {
  Floats squares = Floats{};
  for (int64_t at = 0; at < hidden; at += kLanes) squares += load(row + at) * load(row + at);
  const float factor = 1.0f / std::sqrt(sum(squares) / hidden + epsilon);
  for (int64_t at = 0; at < hidden; at += kLanes) store(to + at, load(row + at) * factor * load(&weight[at]));
}

// The stream, normed, as bytes with a scale a row.
void Model::norm_and_quantise(int64_t num_rows, const std::vector<float>& weight) {
#pragma omp for
  for (int64_t row = 0; row < num_rows; ++row) {
    norm_row(&stream[row * hidden], weight, &normed[row * hidden]);
    scales[row] = quantise(&normed[row * hidden], hidden, row, round_up(hidden, kTileDepth), bytes.data());
  }
}

void Model::quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride) {
#pragma omp for
  for (int64_t row = 0; row < num_rows; ++row)
    scales[row] = quantise(rows + row * depth, depth, row, stride, bytes.data());
}

// Norms a head where the model does, then turns it to its position.
void Model::rotate_head(float* head, const std::vector<float>& norm, int64_t position) const {
  const int64_t d = heads.head_dim, half = d / 2;
  if (!norm.empty()) {
    Floats squares = Floats{};
    for (int64_t at = 0; at < d; at += kLanes) squares += load(head + at) * load(head + at);
    const float factor = 1.0f / std::sqrt(sum(squares) / d + epsilon);
    for (int64_t at = 0; at < d; at += kLanes) store(head + at, load(head + at) * factor * load(&norm[at]));
  }
  const float *cos = cosine + position * d, *sin = sine + position * d;
  for (int64_t at = 0; at < half; ++at) {
    const float low = head[at], high = head[at + half];
    head[at] = low * cos[at] + high * sin[at];
    head[at + half] = high * cos[at + half] + low * sin[at + half];
  }
}

// Queries, scaled, to their buffer; keys and values to the cache.
void Model::rotate_row(const Layer& layer, const Step& step, int64_t row, uint16_t* cache) {
  const int64_t d = heads.head_dim, kv_heads = heads.num_kv_heads, all_heads = heads.num_heads + 2 * kv_heads;
  float* head = &fused[row * all_heads * d];
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(d));  // softmax works in powers of two
  for (int64_t index = 0; index < heads.num_heads; ++index, head += d) {
    rotate_head(head, layer.query_norm, step.positions[row]);
    float* query = &queries[(row * heads.num_heads + index) * d];
    for (int64_t at = 0; at < d; at += kLanes) store(query + at, load(head + at) * scale);
  }
  for (int64_t index = 0; index < kv_heads; ++index, head += d) {
    rotate_head(head, layer.key_norm, step.positions[row]);
    const float* value = head + kv_heads * d;
    const Place place = place_of(heads, cache, step.slots[row], index);
    for (int64_t at = 0; at < d; at += kLanes) {
      uint16_t rounded[kLanes];
      store_bfloat16(place.keys + at, load(head + at));
      store_bfloat16(rounded, load(value + at));
      for (int64_t lane = 0; lane < kLanes; ++lane) place.values[(at + lane) * kBlockTokens] = rounded[lane];
    }
  }
}

// stream += bytes x weight
void Model::add_product(const Weight& weight, int64_t num_rows) {
  multiply(weight, bytes.data(), num_rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &stream[row * hidden + pair * 32];
    store(to, load(to) + left * scales[row]);
    if (pair * 32 + 16 < hidden) store(to + 16, load(to + 16) + right * scales[row]);
  });
}

void Model::run_layer(const Layer& layer, const Step& step, int64_t index) {
  const int64_t rows = step.num_rows, all_heads = heads.num_heads * heads.head_dim;
  norm_and_quantise(rows, layer.attention_norm);
  multiply(layer.qkv, bytes.data(), rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &fused[row * layer.qkv.columns + pair * 32];
    store(to, left * scales[row]);
    if (pair * 32 + 16 < layer.qkv.columns) store(to + 16, right * scales[row]);
  });
#pragma omp for
  for (int64_t row = 0; row < rows; ++row) rotate_row(layer, step, row, step.cache[index]);
  attend_rows(step, step.cache[index]);
  quantise_rows(attended.data(), rows, all_heads, layer.attention_out.padded_depth());
  add_product(layer.attention_out, rows);
  norm_and_quantise(rows, layer.mlp_norm);
  multiply(layer.gate_up, bytes.data(), rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    const Floats gate = left * scales[row], up = right * scales[row];
    store(&gated[row * inner + pair * 16], gate / (1.0f + exponential(-gate)) * up);
  });
  quantise_rows(gated.data(), rows, inner, layer.mlp_out.padded_depth());
  add_product(layer.mlp_out, rows);
}

void Model::attend_rows(const Step& step, const uint16_t* cache) {
  static thread_local AttentionScratch scratch;
#ifdef SPARKGATE_AMX
  if (has_amx) shape_tiles(true);
#endif
#pragma omp for schedule(dynamic)
  for (size_t at = 0; at < tasks.size(); ++at)
    attend(tasks[at], heads, step.positions, cache, queries.data(), attended.data(), has_amx, scratch);
#ifdef SPARKGATE_AMX
  if (has_amx) shape_tiles(false);
#endif
}

// Computes the leading logits of one row again from the weights as they were given.
void Model::sharpen(const float* row, const float* peaks_of_row, float* logits) const {
  int64_t leading[kExactLogits];
  int count = 0;
  float least = -INFINITY;
  for (int64_t pair = 0; pair < head.num_pairs; ++pair) {
    if (count == kExactLogits && !(peaks_of_row[pair] > least)) continue;
    for (int64_t column = pair * 32; column < pair * 32 + 32 && column < vocabulary; ++column) {
      if (count == kExactLogits && !(logits[column] > least)) continue;
      int at = count < kExactLogits ? count++ : kExactLogits - 1;
      for (; at > 0 && logits[leading[at - 1]] < logits[column]; --at) leading[at] = leading[at - 1];
      leading[at] = column;
      least = logits[leading[count - 1]];
    }
  }
  for (int at = 0; at < count; ++at) {
    const uint16_t* weight = head_rows + leading[at] * hidden;
    Floats total = Floats{};
    for (int64_t part = 0; part < hidden; part += kLanes) total += load(row + part) * load_bfloat16(weight + part);
    logits[leading[at]] = sum(total);
  }
}

void Model::compute_logits(const Step& step) {
#pragma omp for
  for (int64_t at = 0; at < step.num_logits; ++at) {
    norm_row(&stream[step.logit_rows[at] * hidden], final_norm, &normed[at * hidden]);
    scales[at] = quantise(&normed[at * hidden], hidden, at, head.padded_depth(), bytes.data());
  }
  multiply(head, bytes.data(), step.num_logits, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float values[32];
    store(values, left * scales[row]);
    store(values + 16, right * scales[row]);
    const int64_t rest = vocabulary - pair * 32, count = rest < 32 ? rest : 32;
    std::memcpy(step.logits + row * vocabulary + pair * 32, values, count * sizeof(float));
    for (int64_t at = count; at < 32; ++at) values[at] = values[0];
    peaks[row * head.num_pairs + pair] = largest(larger(load(values), load(values + 16)));
  });
#pragma omp for
  for (int64_t at = 0; at < step.num_logits; ++at)
    sharpen(&normed[at * hidden], &peaks[at * head.num_pairs], step.logits + at * vocabulary);
}

// The outputs of the captured layer that stands at `place` in the features.
void Model::capture_layer(const Step& step, int64_t place) {
#pragma omp for
  for (int64_t row = 0; row < step.num_rows; ++row)
    std::memcpy(step.features + (row * step.num_captured + place) * hidden, &stream[row * hidden],
                hidden * sizeof(float));
}

void Model::run(const Step& step) {
  reserve(step);
  list_tasks(step);
#pragma omp parallel
  {
#ifdef SPARKGATE_AMX
    if (has_amx) shape_tiles(false);
#endif
#pragma omp for
    for (int64_t row = 0; row < step.num_rows; ++row)
      for (int64_t at = 0; at < hidden; at += kLanes)
        store(&stream[row * hidden + at], load_bfloat16(embedding + step.token_ids[row] * hidden + at));
    int64_t num_captured = 0;
    for (size_t index = 0; index < layers.size(); ++index) {
      run_layer(*layers[index], step, index);
      if (num_captured < step.num_captured && step.captured[num_captured] == static_cast<int64_t>(index))
        capture_layer(step, num_captured++);
    }
    if (num_captured < step.num_captured) {
#pragma omp for
      for (int64_t row = 0; row < step.num_rows; ++row)
        norm_row(&stream[row * hidden], final_norm, step.features + row * hidden);
    }
    if (step.num_logits > 0) compute_logits(step);
#ifdef SPARKGATE_AMX
    if (has_amx) _tile_release();
#endif
  }
}

}  // namespace

extern "C" {

Model* sparkgate_new(int64_t hidden, int64_t inner, int64_t vocabulary, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, int64_t num_layers, double epsilon, const uint16_t* embedding,
                     const uint16_t* head_rows, const float* cosine, const float* sine, const float* final_norm) {
  auto model = std::make_unique<Model>();
  model->hidden = hidden, model->inner = inner, model->vocabulary = vocabulary;
  model->heads = {num_heads, num_kv_heads, head_dim};
  model->epsilon = static_cast<float>(epsilon);
  model->embedding = embedding, model->head_rows = head_rows, model->cosine = cosine, model->sine = sine;
  model->final_norm.assign(final_norm, final_norm + hidden);
  for (int64_t index = 0; index < num_layers; ++index) model->layers.push_back(std::make_unique<Layer>());
  model->has_amx = ask_for_amx();
  return model.release();
}

void sparkgate_free(Model* model) { delete model; }

int sparkgate_has_amx(const Model* model) { return model->has_amx; }

void sparkgate_use_amx(Model* model, int wanted) { model->has_amx = wanted && ask_for_amx(); }

// `which`: 0 qkv, 1 attention out, 2 gate and up, 3 mlp out, 4 the head (layer ignored); source [columns, depth].
void sparkgate_set_weight(Model* model, int64_t layer, int which, const float* source, int64_t columns,
                          int64_t depth) {
  if (which == 4) return model->head.set(source, columns, depth, nullptr);
  Layer& to = *model->layers[layer];
  if (which != 2) {
    Weight& weight = which == 0 ? to.qkv : which == 1 ? to.attention_out : to.mlp_out;
    return weight.set(source, columns, depth, nullptr);
  }
  // Sixteen columns of the gate beside the sixteen of `up` that they are multiplied with.
  std::vector<int64_t> order(columns);
  for (int64_t at = 0; at < columns / 2; ++at) {
    order[at] = at / 16 * 32 + at % 16;
    order[columns / 2 + at] = order[at] + 16;
  }
  to.gate_up.set(source, columns, depth, order.data());
}

// `which`: 0 before attention, 1 before the mlp, 2 queries, 3 keys.
void sparkgate_set_norm(Model* model, int64_t layer, int which, const float* source, int64_t size) {
  Layer& to = *model->layers[layer];
  std::vector<float>* norms[] = {&to.attention_norm, &to.mlp_norm, &to.query_norm, &to.key_norm};
  norms[which]->assign(source, source + size);
}

void sparkgate_forward(Model* model, const Step* step) { model->run(*step); }

}
