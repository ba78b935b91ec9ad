"""Plain sentences in many languages, none of them from CLDR's tables."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "All human beings are born free and equal in dignity and rights.",
        "Where did you put the keys that I gave you yesterday?",
    ),
    "de": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
        "Wo hast du die Schlüssel hingelegt, die ich dir gestern gegeben habe?",
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Où as-tu mis les clés que je t'ai données hier ?",
    ),
    "es": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
        "¿Dónde pusiste las llaves que te di ayer?",
    ),
    "it": (
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
        "Dove hai messo le chiavi che ti ho dato ieri?",
    ),
    "pt": (
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
        "Onde você colocou as chaves que eu lhe dei ontem?",
    ),
    "nl": (
        "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
        "Waar heb je de sleutels gelaten die ik je gisteren gaf?",
    ),
    "sv": (
        "Alla människor är födda fria och lika i värde och rättigheter.",
        "Var lade du nycklarna som jag gav dig i går?",
    ),
    "da": (
        "Alle mennesker er født frie og lige i værdighed og rettigheder.",
        "Hvor har du lagt nøglerne, som jeg gav dig i går?",
    ),
    "fi": (
        "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
        "Mihin sinä laitoit avaimet, jotka annoin sinulle eilen?",
    ),
    "pl": (
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
        "Gdzie położyłeś klucze, które ci wczoraj dałem?",
    ),
    "cs": (
        "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
        "Kam jsi dal ty klíče, které jsem ti včera dal?",
    ),
    "hu": (
        "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
        "Hová tetted a kulcsokat, amelyeket tegnap adtam neked?",
    ),
    "ro": (
        "Toate ființele umane se nasc libere și egale în demnitate și în drepturi.",
        "Unde ai pus cheile pe care ți le-am dat ieri?",
    ),
    "tr": (
        "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
        "Dün sana verdiğim anahtarları nereye koydun?",
    ),
    "ru": (
        "Все люди рождаются свободными и равными в своём достоинстве и правах.",
        "Куда ты положил ключи, которые я дал тебе вчера?",
    ),
    "uk": (
        "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
        "Куди ти поклав ключі, які я дав тобі вчора?",
    ),
    "bg": (
        "Всички хора се раждат свободни и равни по достойнство и права.",
        "Къде сложи ключовете, които ти дадох вчера?",
    ),
    "el": (
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.",
        "Πού έβαλες τα κλειδιά που σου έδωσα χθες;",
    ),
    "ar": (
        "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
        "أين وضعت المفاتيح التي أعطيتك إياها أمس؟",
    ),
    "fa": (
        "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
        "کلیدهایی را که دیروز به تو دادم کجا گذاشتی؟",
    ),
    "he": (
        "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
        "איפה שמת את המפתחות שנתתי לך אתמול?",
    ),
    "hi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        "कल मैंने तुम्हें जो चाबियाँ दी थीं वे तुमने कहाँ रखीं?",
    ),
    "th": (
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
        "คุณวางกุญแจที่ฉันให้คุณเมื่อวานไว้ที่ไหน",
    ),
    "vi": (
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
        "Bạn đã để chùm chìa khóa mà tôi đưa hôm qua ở đâu?",
    ),
    "id": (
        "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama.",
        "Di mana kamu menaruh kunci yang saya berikan kemarin?",
    ),
    "ja": (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
        "昨日あなたに渡した鍵をどこに置きましたか。",
    ),
    "ko": (
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
        "어제 내가 준 열쇠를 어디에 두었어요?",
    ),
    "zh": ("人人生而自由，在尊严和权利上一律平等。", "你把我昨天给你的钥匙放在哪里了？"),
    "zh-Hant": ("人人生而自由，在尊嚴和權利上一律平等。", "你把我昨天給你的鑰匙放在哪裡了？"),
    "sw": (
        "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
        "Uliweka wapi funguo nilizokupa jana?",
    ),
    "et": (
        "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt.",
        "Kuhu sa panid võtmed, mille ma sulle eile andsin?",
    ),
    "lt": (
        "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis.",
        "Kur padėjai raktus, kuriuos tau vakar daviau?",
    ),
    "lv": (
        "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās.",
        "Kur tu noliki atslēgas, ko es tev vakar iedevu?",
    ),
    "ca": (
        "Tots els éssers humans neixen lliures i iguals en dignitat i en drets.",
        "On has posat les claus que et vaig donar ahir?",
    ),
}
